//! `difflow sql`: queries over the metrics of all runs.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::Args;
use datafusion::datasource::MemTable;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::SessionContext;
use eyre::{Context, Result, eyre};
use serde_json::{Map, Value, json};

use crate::plugin::table::table;
use crate::records::run::Run;

pub const EXAMPLES: &str = "\
Tables:
  metrics      run, node, name, step, value     every number that monitors stored
  keys         run, key, value                  every key of run.json, as node.KEY
  checkpoints  run, step                        what is on disk

Examples:
  difflow sql \"SELECT run, min(value) FROM metrics WHERE name = 'nelbo' GROUP BY run\"
  difflow sql \"SELECT a.step, a.value AS linear, b.value AS cosine FROM metrics a JOIN metrics b
               ON a.step = b.step AND a.name = b.name
               WHERE a.run = 'default' AND b.run = 'cosine' AND a.name = 'loss' ORDER BY a.step\"
  difflow sql \"SELECT run, value FROM keys WHERE key = 'trainer.LEARNING_RATE'\" --json";

#[derive(Args)]
pub struct Arguments {
    /// The query: SELECT only.
    query: String,
    /// Folder of runs.
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// A JSON list of rows.
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
///
/// # Errors
/// A run that cannot be read, or a query that is wrong.
pub fn run(arguments: &Arguments) -> Result<()> {
    let runs = Run::all(&arguments.runs)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (schema, batches) = runtime.block_on(ask(&runs, &arguments.query))?;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    if arguments.json {
        let mut rows = Vec::new();
        for batch in &batches {
            rows.extend(json_rows(batch)?);
        }
        println!("{:#}", json!(rows));
    } else {
        let mut rows = Vec::new();
        for batch in &batches {
            rows.extend(text_rows(batch)?);
        }
        println!("{}", table(&names, &rows));
    }
    Ok(())
}

async fn ask(runs: &[Run], query: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let session = SessionContext::new();
    for (name, batch) in tables(runs)? {
        let provider =
            MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(|e| eyre!("{}", e.strip_backtrace()))?;
        session.register_table(name, Arc::new(provider)).map_err(|e| eyre!("{}", e.strip_backtrace()))?;
    }
    let only_queries = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let frame = session.sql_with_options(query, only_queries).await.map_err(|e| {
        eyre!(
            "{}; tables: metrics (run, node, name, step, value), keys (run, key, value), checkpoints (run, step)",
            e.strip_backtrace()
        )
    })?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await.map_err(|e| eyre!("{}", e.strip_backtrace()))?;
    Ok((schema, batches))
}

fn tables(runs: &[Run]) -> Result<Vec<(&'static str, RecordBatch)>> {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let step = Field::new("step", DataType::UInt64, false);
    let make = |fields: Vec<Field>, columns: Vec<ArrayRef>| -> Result<RecordBatch> {
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).context("cannot make a table")
    };
    // Lists, because Arrow wants to know how long a column of texts is before it makes one.
    let rows: Vec<_> =
        runs.iter().flat_map(|run| run.metrics.iter().map(move |(key, value)| (run, key, *value))).collect();
    let metrics = make(
        vec![text("run"), text("node"), text("name"), step.clone(), Field::new("value", DataType::Float64, false)],
        vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(run, _, _)| &run.name))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, (node, _, _), _)| node))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, (_, name, _), _)| name))),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, (_, _, step), _)| *step))),
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|(_, _, value)| *value))),
        ],
    )?;
    let keys: Vec<(&str, String, String)> = runs
        .iter()
        .flat_map(|run| run.keys().into_iter().map(move |(key, value)| (run.name.as_str(), key, value)))
        .collect();
    let keys = make(
        vec![text("run"), text("key"), text("value")],
        vec![
            Arc::new(StringArray::from_iter_values(keys.iter().map(|(run, _, _)| run))),
            Arc::new(StringArray::from_iter_values(keys.iter().map(|(_, key, _)| key))),
            Arc::new(StringArray::from_iter_values(keys.iter().map(|(_, _, value)| value))),
        ],
    )?;
    let saved: Vec<_> = runs.iter().flat_map(|run| run.checkpoints.iter().map(move |step| (run, *step))).collect();
    let checkpoints = make(
        vec![text("run"), step],
        vec![
            Arc::new(StringArray::from_iter_values(saved.iter().map(|(run, _)| &run.name))),
            Arc::new(UInt64Array::from_iter_values(saved.iter().map(|(_, step)| *step))),
        ],
    )?;
    Ok(vec![("metrics", metrics), ("keys", keys), ("checkpoints", checkpoints)])
}

fn text_rows(batch: &RecordBatch) -> Result<Vec<Vec<String>>> {
    let options = FormatOptions::default();
    let columns: Result<Vec<ArrayFormatter>, _> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
    let columns = columns?;
    Ok((0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()).collect())
}

/// Numbers as numbers, nulls as nulls, everything else as text.
fn json_rows(batch: &RecordBatch) -> Result<Vec<Value>> {
    let texts = text_rows(batch)?;
    let schema = batch.schema();
    let cell = |row: usize, column: usize, text: &str| {
        let kind = schema.field(column).data_type();
        match () {
            () if batch.column(column).is_null(row) => Value::Null,
            () if kind.is_integer() => text.parse::<i64>().map_or_else(|_| json!(text), |n| json!(n)),
            () if kind.is_floating() => text.parse::<f64>().map_or(Value::Null, |n| json!(n)),
            () if *kind == DataType::Boolean => json!(text == "true"),
            () => json!(text),
        }
    };
    let row = |(number, texts): (usize, Vec<String>)| {
        let cells = texts
            .iter()
            .enumerate()
            .map(|(column, text)| (schema.field(column).name().clone(), cell(number, column, text)));
        Value::Object(cells.collect::<Map<_, _>>())
    };
    Ok(texts.into_iter().enumerate().map(row).collect())
}
