//! The node's keys.

use difflow_node_kit::{Problem, config::Config as NodeConfig};
use difflow_schema::results;
use difflow_schema::run::RunDir;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Configuration of the evaluator. What it needs to know of the model, the checkpoint says.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    /// Name of the run.
    pub run: String,
    /// Folder of all runs.
    #[schemars(extend("x-may-change" = true))]
    pub runs: String,
    /// Held-out documents (Parquet). Empty: those that the corpus node splits off for the run.
    pub heldout: String,
    /// Its column with the text.
    pub text_column: String,
    /// How many of them are scored, from the first on.
    #[schemars(range(min = 1))]
    pub eval_documents: usize,
    /// How often each document is noised.
    #[schemars(range(min = 1))]
    pub eval_draws: usize,
    /// Seed of the noise. It is not SEED, so that runs with different seeds are scored alike.
    pub eval_seed: u64,
    /// Rows of one forward pass.
    #[schemars(range(min = 1))]
    pub eval_batch: usize,
    /// Gaps to be filled (JSONL with left, answer, right); empty for none.
    pub infill: String,
    /// How many of them are scored, from the first on.
    #[schemars(range(min = 1))]
    pub eval_gaps: usize,
    /// Where the model runs: auto, cpu, cuda or cuda:N.
    pub device: String,
    /// CPU threads of one operation.
    #[schemars(range(min = 1, max = 1024))]
    pub threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: "default".into(),
            runs: "runs".into(),
            heldout: String::new(),
            text_column: "text".into(),
            eval_documents: 128,
            eval_draws: 4,
            eval_seed: 0,
            eval_batch: 16,
            infill: String::new(),
            eval_gaps: 200,
            device: "auto".into(),
            threads: 1,
        }
    }
}

impl NodeConfig for Config {
    fn gone() -> &'static [(&'static str, &'static str)] {
        const COPY: &str = "the checkpoint has its own copy of it";
        &[
            ("TOKENIZER", COPY),
            ("BOS_TOKEN", COPY),
            ("EOS_TOKEN", COPY),
            ("SEQUENCE_LENGTH", COPY),
            ("BASE_MODEL", COPY),
            ("MODEL_RECIPE", COPY),
            ("MODEL_RECIPE_CONFIG", COPY),
            ("TORCH_MODEL", COPY),
            ("TORCH_MODEL_CONFIG", COPY),
            ("NOISE_SCHEDULE", "the bound does not depend on it"),
            ("NOISE_SCHEDULE_CONFIG", "the bound does not depend on it"),
        ]
    }

    fn validate(&self) -> Vec<Problem> {
        RunDir::name_problem(&self.run).map(|allowed| Problem::new("RUN", &self.run, allowed)).into_iter().collect()
    }
}

/// Keys that do not decide a score: where the run lies, and how fast it goes.
const FREE: [&str; 5] = ["RUN", "RUNS", "EVAL_BATCH", "DEVICE", "THREADS"];

impl Config {
    /// The keys that decide a score. Scores made with others are not used again.
    pub fn settings(&self) -> Value {
        results::settings(self, &FREE)
    }

    /// The run's folder.
    pub fn run_dir(&self) -> RunDir {
        RunDir::new(&self.runs, &self.run)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A score was used again although MODEL_RECIPE was another one: the list of keys was written by hand and had forgotten it. Now every
    /// key decides unless it stands here.
    #[test]
    fn every_key_decides_a_score_but_those_that_are_free() {
        let config = Config::default();
        let schema = difflow_node_kit::config::schema::<Config>();
        let keys: Vec<String> = difflow_node_kit::config::keys(&schema).into_iter().map(|(key, _)| key).collect();
        let settings = config.settings();
        for key in &keys {
            assert!(settings.get(key).is_some() != FREE.contains(&key.as_str()), "{key}");
        }
        assert!(FREE.iter().all(|free| keys.iter().any(|key| key == free)), "a free key that there is no more");
    }
}
