//! Answers as rows of a Parquet file: what was asked, what came out, and what it counts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, ListBuilder, RecordBatch, StringArray, StringBuilder,
    UInt64Array, UInt64Builder,
};
use arrow::datatypes::{Float64Type, Schema, UInt64Type};
use difflow_schema::run::write_atomically;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::Value as Json;

use crate::error::EvalError;

/// A metric with how the text was filtered or told its length: `acc,none`, `exact_match,oracle`.
pub type MetricName = String;

/// What became of one question.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Its number in the task.
    pub question: u64,
    /// The row of the source, as JSON.
    pub row: String,
    /// What was given, of each candidate or of the text to be written; once if it is the same for all.
    pub given: Vec<String>,
    /// Of a choice: the candidates. Of a text: what counts as right.
    pub candidates: Vec<String>,
    /// Of a choice: the number of the right candidate.
    pub gold: Option<u64>,
    /// Of a choice: what was chosen.
    pub chosen: Option<u64>,
    /// Value of each candidate or window, as the scoring has it.
    pub values: Vec<f64>,
    /// Their standard errors; NaN where there is none.
    pub errors: Vec<f64>,
    /// Half the widths of their 95 % intervals; NaN where there is none.
    pub half_widths: Vec<f64>,
    /// Tokens of each that were measured, or of the right answer.
    pub tokens: Vec<u64>,
    /// Draws of each.
    pub draws: u64,
    /// What was written, by how the length was told.
    pub texts: BTreeMap<String, String>,
    /// Forwards that the texts took.
    pub forwards: u64,
    /// Whether what is given was cut to fit the model.
    pub cut: bool,
    /// What it counts.
    pub metrics: BTreeMap<MetricName, f64>,
}

impl Answer {
    /// Whether both are of the same question, worded alike: the rows of a source may have changed since one was given.
    pub fn asks_as(&self, other: &Self) -> bool {
        let asked = |one: &Self| (one.question, one.gold, one.cut);
        asked(self) == asked(other)
            && self.row == other.row
            && self.given == other.given
            && self.candidates == other.candidates
    }
}

const TEXT: &str = "text ";
const METRIC: &str = "metric ";

/// Writes answers to a Parquet file, whole or not at all; the same answers give the same bytes.
pub fn write(path: &Path, answers: &[Answer]) -> Result<(), EvalError> {
    let wrong = EvalError::file(path);
    let batch = batch(answers).map_err(|e| wrong(&e))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).map_err(|e| wrong(&e))?;
    writer.write(&batch).and_then(|()| writer.close()).map_err(|e| wrong(&e))?;
    write_atomically(path, &bytes).map_err(|e| wrong(&e))
}

/// Reads what [`write`] wrote. Errors if it is no such file.
pub fn read(path: &Path) -> Result<Vec<Answer>, EvalError> {
    let wrong = EvalError::file(path);
    let file = std::fs::File::open(path).map_err(|e| wrong(&e))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
    let mut answers = Vec::new();
    for batch in reader.map_err(|e| wrong(&e))? {
        let batch = batch.map_err(|e| wrong(&e))?;
        answers.extend(rows(&batch).ok_or_else(|| wrong(&"no file of answers: a column is missing"))?);
    }
    Ok(answers)
}

fn batch(answers: &[Answer]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let strings = |of: fn(&Answer) -> &[String]| {
        let mut list = ListBuilder::new(StringBuilder::new());
        answers.iter().for_each(|answer| list.append_value(of(answer).iter().map(Some)));
        Arc::new(list.finish()) as ArrayRef
    };
    let floats = |of: fn(&Answer) -> &[f64]| {
        let mut list = ListBuilder::new(Float64Builder::new());
        answers.iter().for_each(|answer| list.append_value(of(answer).iter().copied().map(Some)));
        Arc::new(list.finish()) as ArrayRef
    };
    let number = |of: fn(&Answer) -> u64| Arc::new(UInt64Array::from_iter_values(answers.iter().map(of))) as ArrayRef;
    let perhaps =
        |of: fn(&Answer) -> Option<u64>| Arc::new(answers.iter().map(of).collect::<UInt64Array>()) as ArrayRef;
    let mut tokens = ListBuilder::new(UInt64Builder::new());
    answers.iter().for_each(|answer| tokens.append_value(answer.tokens.iter().copied().map(Some)));
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("question".into(), number(|answer| answer.question)),
        ("row".into(), Arc::new(StringArray::from_iter_values(answers.iter().map(|answer| &answer.row)))),
        ("given".into(), strings(|answer| &answer.given)),
        ("candidates".into(), strings(|answer| &answer.candidates)),
        ("gold".into(), perhaps(|answer| answer.gold)),
        ("chosen".into(), perhaps(|answer| answer.chosen)),
        ("values".into(), floats(|answer| &answer.values)),
        ("errors".into(), floats(|answer| &answer.errors)),
        ("half_widths".into(), floats(|answer| &answer.half_widths)),
        ("tokens".into(), Arc::new(tokens.finish())),
        ("draws".into(), number(|answer| answer.draws)),
        ("forwards".into(), number(|answer| answer.forwards)),
        ("cut".into(), number(|answer| u64::from(answer.cut))),
    ];
    let names = |of: fn(&Answer) -> Vec<&String>| {
        let mut names: Vec<&String> = answers.iter().flat_map(of).collect();
        names.sort();
        names.dedup();
        names
    };
    for name in names(|answer| answer.texts.keys().collect()) {
        let own = answers.iter().map(|answer| answer.texts.get(name)).collect::<StringArray>();
        columns.push((format!("{TEXT}{name}"), Arc::new(own)));
    }
    for name in names(|answer| answer.metrics.keys().collect()) {
        let own = answers.iter().map(|answer| answer.metrics.get(name).copied()).collect::<Float64Array>();
        columns.push((format!("{METRIC}{name}"), Arc::new(own)));
    }
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
}

/// `None` if a column is missing or of another type.
fn rows(batch: &RecordBatch) -> Option<Vec<Answer>> {
    let column = |name: &str| batch.column_by_name(name);
    let strings = |name: &str| -> Option<Vec<Vec<String>>> {
        let list = column(name)?.as_list_opt::<i32>()?;
        let own = (0..list.len()).map(|row| {
            let values = list.value(row);
            Some(values.as_string_opt::<i32>()?.iter().flatten().map(str::to_owned).collect())
        });
        own.collect()
    };
    let floats = |name: &str| -> Option<Vec<Vec<f64>>> {
        let list = column(name)?.as_list_opt::<i32>()?;
        (0..list.len()).map(|row| Some(list.value(row).as_primitive_opt::<Float64Type>()?.values().to_vec())).collect()
    };
    let numbers = |name: &str| -> Option<Vec<Option<u64>>> {
        Some(column(name)?.as_primitive_opt::<UInt64Type>()?.iter().collect())
    };
    let tokens: Option<Vec<Vec<u64>>> = {
        let list = column("tokens")?.as_list_opt::<i32>()?;
        (0..list.len()).map(|row| Some(list.value(row).as_primitive_opt::<UInt64Type>()?.values().to_vec())).collect()
    };
    let row = column("row")?.as_string_opt::<i32>()?;
    let (given, candidates) = (strings("given")?, strings("candidates")?);
    let (values, errors, half_widths) = (floats("values")?, floats("errors")?, floats("half_widths")?);
    let (tokens, gold, chosen) = (tokens?, numbers("gold")?, numbers("chosen")?);
    let [question, draws, forwards, cut] = ["question", "draws", "forwards", "cut"].map(numbers);
    let (question, draws, forwards, cut) = (question?, draws?, forwards?, cut?);
    let mut answers: Vec<Answer> = (0..batch.num_rows())
        .map(|at| Answer {
            question: question[at].unwrap_or_default(),
            row: row.value(at).to_owned(),
            given: given[at].clone(),
            candidates: candidates[at].clone(),
            gold: gold[at],
            chosen: chosen[at],
            values: values[at].clone(),
            errors: errors[at].clone(),
            half_widths: half_widths[at].clone(),
            tokens: tokens[at].clone(),
            draws: draws[at].unwrap_or_default(),
            forwards: forwards[at].unwrap_or_default(),
            cut: cut[at] == Some(1),
            ..Answer::default()
        })
        .collect();
    let schema: Arc<Schema> = batch.schema();
    for (number, field) in schema.fields().iter().enumerate() {
        let column = batch.column(number);
        if let Some(name) = field.name().strip_prefix(TEXT) {
            for (answer, text) in answers.iter_mut().zip(column.as_string_opt::<i32>()?) {
                answer.texts.extend(text.map(|text| (name.to_owned(), text.to_owned())));
            }
        } else if let Some(name) = field.name().strip_prefix(METRIC) {
            for (answer, value) in answers.iter_mut().zip(column.as_primitive_opt::<Float64Type>()?) {
                answer.metrics.extend(value.map(|value| (name.to_owned(), value)));
            }
        }
    }
    Some(answers)
}

impl Answer {
    /// The row of the source.
    pub fn row_json(&self) -> Json {
        serde_json::from_str(&self.row).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_they_were_written_and_the_bytes_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let choice = Answer {
            question: 7,
            row: "{\"q\":\"a\"}".into(),
            given: vec!["Q".into()],
            candidates: vec![" x".into(), " y".into()],
            gold: Some(1),
            chosen: Some(0),
            values: vec![1.5, 2.0],
            errors: vec![0.1, 0.0],
            half_widths: vec![0.2, 0.0],
            tokens: vec![2, 3],
            draws: 8,
            cut: true,
            metrics: BTreeMap::from([("acc,none".to_owned(), 0.0)]),
            ..Answer::default()
        };
        let text = Answer {
            texts: BTreeMap::from([("oracle".to_owned(), "b\n".to_owned())]),
            forwards: 3,
            metrics: BTreeMap::from([("exact_match,oracle".to_owned(), 1.0)]),
            ..Answer::default()
        };
        let answers = [choice, text];
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        write(&a, &answers).unwrap();
        write(&b, &answers).unwrap();
        assert_eq!(read(&a).unwrap(), answers);
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        std::fs::write(&b, "PAR1").unwrap();
        assert!(read(&b).unwrap_err().to_string().contains(b.to_str().unwrap()));
    }
}
