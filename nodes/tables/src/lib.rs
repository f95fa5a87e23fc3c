//! Files as tables: Parquet, JSONL, CSV and plain text, packed or not, in the order of their paths and rows. The corpus
//! node reads its documents from them, evaluation its questions.

mod caught;
pub mod files;
mod rows;
mod split;
mod table;
mod text_files;

pub use caught::caught;
pub use files::Format;
pub use rows::{Rows, rows};
pub use table::{Texts, open, session};

/// What is wrong with files or a query over them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}; {allowed}")]
pub struct FileProblem {
    /// What is there.
    pub found: String,
    /// What could be there, or what to do.
    pub allowed: String,
}

impl FileProblem {
    pub(crate) fn new(found: impl ToString, allowed: impl ToString) -> Self {
        Self { found: found.to_string(), allowed: allowed.to_string() }
    }
}
