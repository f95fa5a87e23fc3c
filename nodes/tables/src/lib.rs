//! Files as tables: Parquet, JSONL, CSV and plain text, packed or not, in the order of their paths and rows. The corpus
//! node reads its documents from them, evaluation its questions. They lie on this machine or in an object store.

mod address;
mod bucket;
mod caught;
pub mod files;
mod io;
mod remote_error;
mod remote_files;
mod remote_read;
mod rows;
mod split;
mod table;
mod text_files;
mod versions;

pub use address::Address;
pub use bucket::Object;
pub use caught::caught;
pub use files::{File, Files, Format};
pub use remote_error::{Fault, RemoteError};
pub use rows::{Rows, rows};
pub use table::{Texts, open, session, table};

/// What is wrong with files or a query over them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}; {allowed}")]
pub struct FileProblem {
    /// What is there.
    pub found: String,
    /// What could be there, or what to do.
    pub allowed: String,
    /// Whether only a server is at fault that did not answer as it should: later it may.
    pub unreachable: bool,
}

impl FileProblem {
    pub(crate) fn new(found: impl ToString, allowed: impl ToString) -> Self {
        Self { found: found.to_string(), allowed: allowed.to_string(), unreachable: false }
    }
}
