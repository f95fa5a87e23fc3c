//! The node's keys.

use difflow_node_kit::problem::Kind;
use difflow_node_kit::{Problem, config::Config as NodeConfig};
use difflow_schema::run::RunDir;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Configuration of the evaluator.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    /// Name of the run.
    pub run: String,
    /// Folder of all runs.
    pub runs: String,
    /// The model before adaptation (a Hugging Face directory or a hub id); it is scored left to right at step 0.
    pub base_model: String,
    /// A model recipe of a plug-in for the base model, as in training. Empty for none.
    pub model_recipe: String,
    /// Its options, as a JSON object.
    pub model_recipe_config: String,
    /// A torch model of a plug-in that base model and checkpoints are read with, as in training. Empty for none.
    pub torch_model: String,
    /// Its options, as a JSON object.
    pub torch_model_config: String,
    /// tokenizer.json of the model, or the hub id of a model that has one.
    pub tokenizer: String,
    /// The token that begins a document.
    pub bos_token: String,
    /// The token that ends a document; it may be the same.
    pub eos_token: String,
    /// Longer documents are cut to this many tokens.
    #[schemars(range(min = 2))]
    pub sequence_length: usize,
    /// Held-out documents (Parquet).
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
    /// Noise schedule of the bound, as in training.
    pub noise_schedule: String,
    /// Its options, as a JSON object.
    pub noise_schedule_config: String,
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
            base_model: "data/tiny/model".into(),
            model_recipe: String::new(),
            model_recipe_config: "{}".into(),
            torch_model: String::new(),
            torch_model_config: "{}".into(),
            tokenizer: "data/tiny/tokenizer.json".into(),
            bos_token: "<bos>".into(),
            eos_token: "<eos>".into(),
            sequence_length: 256,
            heldout: "data/tiny/heldout.parquet".into(),
            text_column: "text".into(),
            eval_documents: 128,
            eval_draws: 4,
            eval_seed: 0,
            eval_batch: 16,
            noise_schedule: "linear".into(),
            noise_schedule_config: "{}".into(),
            infill: "data/tiny/infill.jsonl".into(),
            eval_gaps: 200,
            device: "auto".into(),
            threads: 1,
        }
    }
}

impl NodeConfig for Config {
    fn validate(&self) -> Vec<Problem> {
        RunDir::name_problem(&self.run).map(|allowed| Problem::new("RUN", &self.run, allowed)).into_iter().collect()
    }

    fn fetch(&mut self) -> Result<(), Problem> {
        difflow_hub::fetch_keys(&mut self.base_model, &mut self.tokenizer)
            .map_err(|(key, found, e)| Problem::new(key, found, e.to_string()).of_kind(Kind::File))
    }
}

impl Config {
    /// The keys that decide a score. Scores made with others are not used again.
    pub fn settings(&self) -> Value {
        json!({
            "BASE_MODEL": self.base_model,
            "TORCH_MODEL": self.torch_model,
            "TORCH_MODEL_CONFIG": self.torch_model_config,
            "TOKENIZER": self.tokenizer,
            "BOS_TOKEN": self.bos_token,
            "EOS_TOKEN": self.eos_token,
            "SEQUENCE_LENGTH": self.sequence_length,
            "HELDOUT": self.heldout,
            "TEXT_COLUMN": self.text_column,
            "EVAL_DOCUMENTS": self.eval_documents,
            "EVAL_DRAWS": self.eval_draws,
            "EVAL_SEED": self.eval_seed,
            "NOISE_SCHEDULE": self.noise_schedule,
            "NOISE_SCHEDULE_CONFIG": self.noise_schedule_config,
            "INFILL": self.infill,
            "EVAL_GAPS": self.eval_gaps,
        })
    }
}
