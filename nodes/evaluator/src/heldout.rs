//! The held-out documents as token ids.

use std::fs::File;

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use difflow_node_kit::{Problem, Problems};
use difflow_text::Words;
use eyre::Result;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::config::Config;

/// Documents `<bos> text <eos>`.
pub struct Heldout {
    /// Token ids of each, at least two.
    pub documents: Vec<Vec<u32>>,
    /// How many were longer than SEQUENCE_LENGTH and cut.
    pub cut: usize,
}

impl Heldout {
    /// Reads the first EVAL_DOCUMENTS documents of HELDOUT.
    ///
    /// # Errors
    /// [`Problems`] when the file, the column or its content is not what the keys say.
    pub fn read(config: &Config, words: &Words) -> Result<Self> {
        let mut heldout = Self { documents: Vec::new(), cut: 0 };
        for text in texts(config)? {
            let mut document = vec![words.bos];
            document.extend(words.encode(&text)?);
            document.push(words.eos);
            heldout.cut += usize::from(document.len() > config.sequence_length);
            document.truncate(config.sequence_length);
            heldout.documents.push(document);
        }
        Ok(heldout)
    }
}

fn texts(config: &Config) -> Result<Vec<String>, Problems> {
    let (path, name) = (&config.heldout, &config.text_column);
    let unreadable =
        |e: &dyn std::fmt::Display| Problem::new("HELDOUT", path, format!("cannot be read as Parquet: {e}"));
    let file = File::open(path).map_err(|e| unreadable(&e))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| unreadable(&e))?;
    let columns: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    if !columns.contains(name) {
        return Err(Problem::new("TEXT_COLUMN", name, format!("columns of {path}: {}", columns.join(", "))).into());
    }
    let projection = ProjectionMask::columns(builder.parquet_schema(), [name.as_str()]);
    let reader = builder.with_projection(projection).with_limit(config.eval_documents).build();
    let mut texts = Vec::new();
    for batch in reader.map_err(|e| unreadable(&e))? {
        let batch = batch.map_err(|e| unreadable(&e))?;
        let found = column(&batch).ok_or_else(|| {
            let kind = batch.column(0).data_type();
            Problem::new("TEXT_COLUMN", name, format!("it is {kind} in {path}; allowed: a column of text"))
        })?;
        texts.extend(found.into_iter().map(|text| text.unwrap_or_default().to_owned()));
    }
    if texts.is_empty() {
        return Err(Problem::new("HELDOUT", path, "it has no rows; allowed: at least one document").into());
    }
    Ok(texts)
}

/// The only column as texts, whatever width its offsets have; `None` when it is no text.
fn column(batch: &RecordBatch) -> Option<Vec<Option<&str>>> {
    let column = batch.column(0);
    if let Some(texts) = column.as_string_opt::<i32>() {
        return Some(texts.iter().collect());
    }
    if let Some(texts) = column.as_string_opt::<i64>() {
        return Some(texts.iter().collect());
    }
    column.as_string_view_opt().map(|texts| texts.iter().collect())
}
