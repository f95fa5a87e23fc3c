//! What can go wrong outside a text: files and the tokenizer.

use std::path::Path;

/// An error of this crate. What is wrong with a text is a [`crate::Problem`] instead.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("cannot write {path}: {source}; is the folder writable and the disk not full?")]
    Write { path: String, source: std::io::Error },
    #[error("cannot write the gaps as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot put the stories into a table: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("cannot write the stories as Parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("the tokenizer failed: {0}")]
    Tokenizer(#[from] tokenizers::Error),
}

impl WorldError {
    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> WorldError {
        let path = path.display().to_string();
        |source| WorldError::Write { path, source }
    }
}
