//! Batch transforms in Python. A batch crosses as a line of JSON with its columns; the file gets it as a list of rows.

use std::str::FromStr;

use difflow_plugin_sdk::batch::{Field, Kind};
use difflow_plugin_sdk::{Batch, BatchTransform, Column, Error};
use difflow_schema::{Message, PlainDocuments, RowNoised};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::Object;

impl BatchTransform for Object {
    fn accepts(&self, fields: &[Field]) -> Result<(), Error> {
        // The function is called what it works on.
        let functions = &self.helper.about.functions;
        let (wanted, place) = if functions.iter().any(|name| name == "documents") {
            (PlainDocuments::fields(), "`documents` works on the documents of a corpus: put it on the corpus")
        } else {
            (RowNoised::fields(), "`noised` works on noised batches: put it on the noiser")
        };
        let same = fields.iter().map(|field| &field.name).eq(wanted.iter().map(|field| field.name()));
        same.then_some(()).ok_or_else(|| Error::incompatible(place))
    }

    fn process(&mut self, seq: u64, seed: u64, batch: Batch) -> Result<Batch, Error> {
        let kinds: Vec<(String, Kind)> =
            batch.columns.iter().map(|(name, column)| (name.clone(), column.kind())).collect();
        let fractions: Vec<&str> =
            kinds.iter().filter(|(_, kind)| *kind == Kind::F64).map(|(name, _)| name.as_str()).collect();
        let columns: Map<String, Value> =
            batch.columns.into_iter().map(|(name, column)| (name, written(column))).collect();
        let mut answer = self.helper.ask(&json!({
            "call": "process",
            "instance": self.number,
            "seq": seq,
            "seed": seed,
            "columns": columns,
            "fractions": fractions,
        }))?;
        let columns = kinds.into_iter().map(|(name, kind)| {
            let column = read(kind, answer["columns"][&name].take());
            let column = column.map_err(|problem| Error::incompatible(format!("column `{name}`: {problem}")))?;
            Ok((name, column))
        });
        let columns = columns.collect::<Result<Vec<_>, Error>>()?;
        Ok(Batch { rows: columns.first().map_or(0, |(_, column)| column.rows()), columns })
    }
}

fn written(column: Column) -> Value {
    match column {
        Column::Flags(values) => json!(values),
        Column::U32(values) => json!(values),
        Column::U64(values) => json!(values),
        Column::F64(values) => json!(values),
        Column::Text(values) => json!(values),
        Column::FlagLists(values) => json!(values),
        Column::U32Lists(values) => json!(values),
    }
}

/// A column as it came back: what is not of its type is refused.
fn read(kind: Kind, values: Value) -> Result<Column, String> {
    fn all<T: DeserializeOwned>(values: Value) -> Result<T, String> {
        serde_json::from_value(values).map_err(|e| e.to_string())
    }
    Ok(match kind {
        Kind::Flags => Column::Flags(all(values)?),
        Kind::U32 => Column::U32(all(values)?),
        Kind::U64 => Column::U64(all(values)?),
        // They come as texts: serde_json may round a number's last bit.
        Kind::F64 => {
            let texts: Vec<String> = all(values)?;
            Column::F64(
                texts.iter().map(|text| f64::from_str(text)).collect::<Result<_, _>>().map_err(|e| e.to_string())?,
            )
        }
        Kind::Text => Column::Text(all(values)?),
        Kind::FlagLists => Column::FlagLists(all(values)?),
        Kind::U32Lists => Column::U32Lists(all(values)?),
    })
}
