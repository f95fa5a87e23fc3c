//! The node's keys.

use difflow_inference::{Compute, IN_CHECKPOINT, in_checkpoint};
use difflow_node_kit::{Config as NodeConfig, RunKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of the evaluator. What it needs to know of the model, the checkpoint says.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Held-out documents (Parquet). Empty: those that the corpus node splits off for the run.
    pub heldout: String,
    /// Its column with the text.
    pub text_column: String,
    /// Of a model that is finetuned on conversations the answers are scored, given what they answer. The columns of HELDOUT with a prompt
    /// and its response: that with the prompt. Empty: MESSAGES_COLUMN.
    pub prompt_column: Option<String>,
    /// That with the response.
    pub response_column: String,
    /// The column of HELDOUT with messages, as JSON.
    pub messages_column: Option<String>,
    /// How many of them are scored, from the first on.
    #[schemars(range(min = 1))]
    pub eval_documents: usize,
    /// How often each document is noised.
    #[schemars(range(min = 1))]
    pub eval_draws: usize,
    /// Seed of the noise. It is not SEED, so that runs with different seeds are scored alike.
    pub eval_seed: u64,
    /// Rows of one forward pass.
    #[schemars(range(min = 1), extend("x-may-change" = true))]
    pub eval_batch: usize,
    /// Gaps to be filled (JSONL with left, answer, right); empty for none.
    pub infill: String,
    /// How many of them are scored, from the first on.
    #[schemars(range(min = 1))]
    pub eval_gaps: usize,
    /// Tasks that each checkpoint is evaluated by, separated by commas: names in data/tasks, or task files. Empty: none.
    pub tasks: String,
    /// How many questions of each task are asked, from the first on.
    #[schemars(range(min = 1))]
    pub task_questions: usize,
    /// Draws of each candidate of a question.
    #[schemars(range(min = 1))]
    pub task_draws: u32,
    #[serde(flatten)]
    pub compute: Compute,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunKeys::default(),
            heldout: String::new(),
            text_column: "text".into(),
            prompt_column: None,
            response_column: "response".into(),
            messages_column: None,
            eval_documents: 128,
            eval_draws: 4,
            eval_seed: 0,
            eval_batch: 16,
            infill: String::new(),
            eval_gaps: 200,
            tasks: String::new(),
            task_questions: 64,
            task_draws: 16,
            compute: Compute::default(),
        }
    }
}

impl NodeConfig for Config {
    fn run(&self) -> &RunKeys {
        &self.run
    }

    fn gone(key: &str) -> Option<&'static str> {
        match key {
            "NOISE_SCHEDULE" | "NOISE_SCHEDULE_CONFIG" => Some("the bound does not depend on it"),
            "BASE_MODEL" | "SEQUENCE_LENGTH" => Some(IN_CHECKPOINT),
            _ => in_checkpoint(key),
        }
    }
}
