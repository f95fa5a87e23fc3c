//! Evaluation of checkpoints by tasks: YAML files with a source of questions, templates, and what is counted.
//!
//! | to | use |
//! |---|---|
//! | read task files | [`Places::tasks`], [`Places::all`], [`Places::suites`] |
//! | put a task to a model | [`Evaluation::prepare`], [`Evaluation::run`] |
//! | know what came out | [`Outcome`], [`Answer`], [`Figure`] |
//! | write it as lm-evaluation-harness does | [`report::write`] |
//! | compare two checkpoints, question by question | [`diff::compare`] |

mod answers;
mod code;
pub mod diff;
mod encode;
mod error;
mod items;
mod matching;
mod places;
pub mod report;
mod rouge;
mod run;
mod summary;
mod task;
mod templates;

pub use answers::{Answer, MetricName};
pub use encode::{Asked, Encoded};
pub use error::EvalError;
pub use places::Places;
pub use run::{Done, Evaluation, Options, Outcome, Watch};
pub use summary::Figure;
pub use task::{Kind, Metric, Suite, Task, Told};
