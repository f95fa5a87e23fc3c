//! The progress of a job, and whether it continues.

/// How far a job of several batches is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows that are done.
    pub done: usize,
    /// Rows of the whole job.
    pub of: usize,
}

/// Called before every batch; its error ends the job and is returned unchanged.
pub type GoOn<'a, E> = dyn FnMut(Progress) -> Result<(), E> + 'a;
