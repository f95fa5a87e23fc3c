//! What can go wrong in an evaluation.

use std::path::{Path, PathBuf};

use difflow_inference::InferenceError;
use difflow_tables::FileProblem;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A task file says something that means nothing.
    #[error("task {task}: {key}: found {found}; {allowed}")]
    Task { task: String, key: &'static str, found: String, allowed: String },
    /// A question cannot be asked.
    #[error("task {task}, question {question}: found {found}; {allowed}")]
    Question { task: String, question: u64, found: String, allowed: String },
    /// A file cannot be read or written.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// The model cannot be asked this.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// Whoever watches the progress has ended it.
    #[error("stopped")]
    Stopped,
}

impl EvalError {
    /// Whether the task file or its data have to be changed: the exit code is then 78.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Task { .. } | Self::Question { .. })
    }

    pub(crate) fn task(task: &str, key: &'static str, found: impl ToString, allowed: impl ToString) -> Self {
        Self::Task { task: task.to_owned(), key, found: found.to_string(), allowed: allowed.to_string() }
    }

    pub(crate) fn source(task: &str, key: &'static str, problem: &FileProblem) -> Self {
        Self::task(task, key, &problem.found, &problem.allowed)
    }

    pub(crate) fn question(task: &str, question: u64, found: impl ToString, allowed: impl ToString) -> Self {
        Self::Question { task: task.to_owned(), question, found: found.to_string(), allowed: allowed.to_string() }
    }

    pub(crate) fn file(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> Self + '_ {
        move |reason| Self::File { path: path.to_owned(), reason: reason.to_string() }
    }
}
