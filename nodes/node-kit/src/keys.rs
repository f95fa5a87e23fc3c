//! Keys that several nodes have, with one meaning.

use difflow_schema::run::RunDir;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Problem;

/// Which run this is. Every node has these keys; they usually stand in the dataflow's shared `env:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct RunKeys {
    /// Name of the run: its folder under RUNS. A name already taken is resumed if the configuration is the same.
    #[serde(rename = "RUN")]
    pub name: String,
    /// Folder of all runs, relative to the dataflow file.
    #[schemars(extend("x-may-change" = true))]
    pub runs: String,
}

impl Default for RunKeys {
    fn default() -> Self {
        Self { name: "default".into(), runs: "runs".into() }
    }
}

impl RunKeys {
    /// Returns the run's folder.
    pub fn dir(&self) -> RunDir {
        RunDir::new(&self.runs, &self.name)
    }

    /// Returns what is wrong with the name, if anything is.
    pub(crate) fn problem(&self) -> Option<Problem> {
        RunDir::name_problem(&self.name).map(|allowed| Problem::new("RUN", &self.name, allowed))
    }
}

/// Where keys that say `preset` get their value.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// What this project recommends.
    #[default]
    Recommended,
    /// What the paper's code does.
    Parity,
}
