//! The progress of a job, and whether it continues.

/// Where a job of several batches stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows that are done.
    pub done: usize,
    /// Rows of the whole job.
    pub of: usize,
}

/// Is asked before every batch; its error ends the job and is handed on as it is.
pub type GoOn<'a, E> = dyn FnMut(Progress) -> Result<(), E> + 'a;
