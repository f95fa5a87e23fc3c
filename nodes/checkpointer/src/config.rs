//! The checkpointer's keys.

use difflow_node_kit::{Config as NodeConfig, RunKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the checkpointer can be told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// How many of the newest checkpoints stay, besides step 0.
    #[schemars(range(min = 2), extend("x-may-change" = true))]
    pub keep_last: usize,
    /// Checkpoints whose step is a multiple of this stay too; 0 keeps none for that reason.
    #[schemars(extend("x-may-change" = true))]
    pub keep_every: u64,
    /// So many of the checkpoints with the lowest validation NELBO (AR loss where there is none) stay too. It needs an evaluator:
    /// what is not scored yet stays until it is.
    #[schemars(extend("x-may-change" = true))]
    pub keep_best: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { run: RunKeys::default(), keep_last: 5, keep_every: 0, keep_best: 0 }
    }
}

impl NodeConfig for Config {
    fn run(&self) -> &RunKeys {
        &self.run
    }
}
