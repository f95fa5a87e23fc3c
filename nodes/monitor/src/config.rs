//! The monitor's keys.

use difflow_node_kit::Problem;
use difflow_schema::run::RunDir;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the monitor's `env:` block may hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    /// Name of the run: its folder inside RUNS. Usually set for the whole dataflow.
    pub run: String,
    /// Folder of all runs, relative to the dataflow file. Usually set for the whole dataflow.
    pub runs: String,
    /// Seconds between two progress lines.
    #[schemars(range(min = 1))]
    pub progress_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { run: "default".into(), runs: "runs".into(), progress_seconds: 5 }
    }
}

impl difflow_node_kit::Config for Config {
    fn validate(&self) -> Vec<Problem> {
        RunDir::name_problem(&self.run).map(|allowed| Problem::new("RUN", &self.run, allowed)).into_iter().collect()
    }
}
