//! The state of the run: what the page's header and its table of nodes show, updated every second.

use serde::Serialize;

use crate::health::{EdgeHealth, NodeHealth};

/// `None` is "not measured".
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Status {
    /// `waiting`, `training`, `scoring`, `failed`, `stopped` or `ended`.
    pub state: &'static str,
    /// Something that a reader must know, in words.
    pub notice: Option<String>,
    /// Optimizer steps done.
    pub step: Option<u64>,
    /// Optimizer steps that there will be.
    pub total: Option<u64>,
    /// Seconds until the last step.
    pub eta: Option<f64>,
    /// Seconds since the monitor started.
    pub elapsed: f64,
    /// Weighted loss, mean of the last steps.
    pub loss: Option<f64>,
    /// Unweighted loss, mean of the last steps.
    pub loss_unweighted: Option<f64>,
    /// Training tokens per second, mean of the last steps.
    pub tokens_per_s: Option<f64>,
    /// Training tokens so far.
    pub tokens_seen: Option<f64>,
    /// Share of the last steps' time in which the trainer waited for data.
    pub data_wait_share: Option<f64>,
    /// Whether report.html is there.
    pub report: bool,
    /// All nodes.
    pub nodes: Vec<NodeHealth>,
    /// The edges that are measured.
    pub edges: Vec<EdgeHealth>,
}
