//! Files of documents: a column of a Parquet file, or plain text.

use std::fs::File;
use std::path::{Path, PathBuf};

use std::thread;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use difflow_schema::Conversation;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// What separates two documents of a text file, besides an empty line.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Why a file of documents cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// The file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// It has no such column.
    #[error("{}: found columns {columns}, wanted one named `{column}`", path.display())]
    NoColumn { path: PathBuf, column: String, columns: String },
    /// The column is not text.
    #[error("{}: column `{column}` is {kind}, wanted a column of text", path.display())]
    NoText { path: PathBuf, column: String, kind: String },
    /// A row is no conversation.
    #[error("{}, row {row} (counted from 0): {reason}", path.display())]
    NoConversation { path: PathBuf, row: usize, reason: String },
}

/// The column of conversations, as JSON, in the file that the corpus node leaves in a run.
pub const MESSAGES: &str = "messages";

/// How long the corpus node may take to split off the run's own held-out documents.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Waits for a run's own held-out documents, which the corpus node writes while the first checkpoint is made; calls `go_on` meanwhile. If they
/// do not come within two minutes, whoever reads them will say so. Errors with the error of `go_on`.
pub fn wait_for<E>(path: &Path, go_on: &mut dyn FnMut() -> Result<(), E>) -> Result<(), E> {
    let start = Instant::now();
    while !path.is_file() && start.elapsed() < PATIENCE {
        go_on()?;
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Returns the first conversations of a column of a Parquet file, at most `limit`. Errors as [`of_parquet`], or if a row is none.
pub fn conversations(path: &Path, column: &str, limit: usize) -> Result<Vec<Conversation>, DocumentsError> {
    let read = |(row, messages): (usize, String)| {
        let reason = |e| DocumentsError::NoConversation { path: path.to_owned(), row, reason: format!("{e}") };
        Conversation::parse(&messages).map_err(reason)
    };
    of_parquet(path, column, limit)?.into_iter().enumerate().map(read).collect()
}

/// Returns the first exchanges of two columns of a Parquet file, at most `limit`. Errors as [`conversations`].
pub fn exchanges(path: &Path, prompt: &str, response: &str, limit: usize) -> Result<Vec<Conversation>, DocumentsError> {
    let both = of_parquet(path, prompt, limit)?.into_iter().zip(of_parquet(path, response, limit)?);
    let read = |(row, (prompt, response)): (usize, (String, String))| {
        let reason = |e| DocumentsError::NoConversation { path: path.to_owned(), row, reason: format!("{e}") };
        Conversation::exchange(&prompt, &response).map_err(reason)
    };
    both.enumerate().map(read).collect()
}

/// Returns the documents of a text file, at most `limit`: separated by `<|endoftext|>` if it has any, otherwise by
/// empty lines. Errors if it cannot be read.
pub fn of_text(path: &Path, limit: usize) -> Result<Vec<String>, DocumentsError> {
    let wrong = |e: std::io::Error| DocumentsError::File { path: path.to_owned(), reason: e.to_string() };
    let text = std::fs::read_to_string(path).map_err(wrong)?;
    let between = if text.contains(END_OF_TEXT) { END_OF_TEXT } else { "\n\n" };
    let documents = text.split(between).map(str::trim).filter(|document| !document.is_empty());
    Ok(documents.take(limit).map(str::to_owned).collect())
}

/// Returns the first documents of a column of a Parquet file, at most `limit`; a null is an empty document. Errors if
/// the file is not Parquet or has no such text column.
pub fn of_parquet(path: &Path, column: &str, limit: usize) -> Result<Vec<String>, DocumentsError> {
    let wrong = |reason: String| DocumentsError::File { path: path.to_owned(), reason };
    let parquet = |e: &dyn std::fmt::Display| wrong(format!("it is no Parquet file: {e}"));
    let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| parquet(&e))?;
    let columns: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    if !columns.iter().any(|name| name == column) {
        let (path, column, columns) = (path.to_owned(), column.to_owned(), columns.join(", "));
        return Err(DocumentsError::NoColumn { path, column, columns });
    }
    let only = ProjectionMask::columns(builder.parquet_schema(), [column]);
    let mut documents = Vec::new();
    for batch in builder.with_projection(only).with_limit(limit).build().map_err(|e| parquet(&e))? {
        let batch = batch.map_err(|e| parquet(&e))?;
        let found = texts(&batch).ok_or_else(|| {
            let kind = batch.column(0).data_type().to_string();
            DocumentsError::NoText { path: path.to_owned(), column: column.to_owned(), kind }
        })?;
        documents.extend(found.into_iter().map(|text| text.unwrap_or_default().to_owned()));
    }
    Ok(documents)
}

/// Returns the only column as texts, whatever the width of its offsets, or `None` if it is not text.
fn texts(batch: &RecordBatch) -> Option<Vec<Option<&str>>> {
    let column = batch.column(0);
    if let Some(texts) = column.as_string_opt::<i32>() {
        return Some(texts.iter().collect());
    }
    if let Some(texts) = column.as_string_opt::<i64>() {
        return Some(texts.iter().collect());
    }
    column.as_string_view_opt().map(|texts| texts.iter().collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn documents_end_at_the_marker_or_else_at_an_empty_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, "one\n\ntwo\nlines\n\n\n\nthree\n").unwrap();
        assert_eq!(of_text(&path, 9).unwrap(), ["one", "two\nlines", "three"]);
        assert_eq!(of_text(&path, 2).unwrap().len(), 2);
        std::fs::write(&path, "one\n\nstill<|endoftext|>\ntwo").unwrap();
        assert_eq!(of_text(&path, 9).unwrap(), ["one\n\nstill", "two"]);
        assert!(of_text(&dir.path().join("b.txt"), 1).unwrap_err().to_string().contains("b.txt"));
    }

    #[test]
    fn a_column_is_named_when_it_is_missing_or_no_text() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/tiny/heldout.parquet"));
        assert_eq!(of_parquet(path, "text", 3).unwrap().len(), 3);
        let error = |column| of_parquet(path, column, 3).unwrap_err();
        assert!(matches!(error("body"), DocumentsError::NoColumn { columns, .. } if columns.contains("text")));
        assert!(matches!(error("doc_id"), DocumentsError::NoText { .. }));
        assert!(matches!(of_parquet(Path::new("Cargo.toml"), "text", 1), Err(DocumentsError::File { .. })));
    }
}
