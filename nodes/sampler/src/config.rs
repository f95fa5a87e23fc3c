//! The node's keys.

use difflow_model::{Caching, Score};
use difflow_node_kit::problem::Kind;
use difflow_node_kit::{Problem, config::Config as NodeConfig};
use difflow_schema::run::RunDir;
use difflow_text::Lengths;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Which positions become known first.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decoder {
    /// Any, as the noise schedule run backwards says.
    #[default]
    Random,
    /// Any, one a forward: random with ever smaller steps.
    FirstHitting,
    /// Those with the highest SCORE.
    Confidence,
    /// All whose SCORE is at least THRESHOLD.
    Threshold,
    /// As confidence, and always the most probable token.
    Greedy,
}

/// Who checks the texts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Checker {
    /// The rules of the little world of data/tiny.
    #[default]
    World,
    /// Nobody.
    None,
}

/// Configuration of the sampler.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    /// Name of the run.
    pub run: String,
    /// Folder of all runs.
    pub runs: String,
    /// Seed of lengths and texts.
    pub seed: u64,
    /// Optimizer steps of the run; the checkpoint of this step is the last. Empty: no checkpoint counts as the last.
    pub steps: Option<u64>,
    /// tokenizer.json of the model, or the hub id of a model that has one.
    pub tokenizer: String,
    /// The token that begins a document.
    pub bos_token: String,
    /// The token that ends a document; it may be the same.
    pub eos_token: String,
    /// Texts from nothing per checkpoint; a quarter of them at step 0.
    pub samples: u64,
    /// Texts from nothing at the last checkpoint.
    pub samples_final: u64,
    /// Tokens of a text from nothing, its end included: lowest and highest number, drawn per text.
    pub lengths: String,
    /// Canvases of one forward pass.
    #[schemars(range(min = 1))]
    pub sample_batch: usize,
    /// Which positions become known first.
    pub decoder: Decoder,
    /// What makes a position sure, for the decoders that ask.
    pub score: Score,
    /// With DECODER threshold: reveals every position whose SCORE is at least this.
    pub threshold: f64,
    /// With DECODER threshold: always reveals the best of this many masked positions from the left, too; empty: of all.
    #[schemars(range(min = 1))]
    pub window: Option<usize>,
    /// Fills blocks of this many positions from left to right; empty: all at once.
    #[schemars(range(min = 1))]
    pub block: Option<usize>,
    /// With BLOCK: what is kept of earlier forwards, so that they read less.
    pub cache: Caching,
    /// Steps from the empty canvas to the text.
    #[schemars(range(min = 1))]
    pub diffusion_steps: u32,
    /// Divides the logits; 0 takes the most probable token.
    #[schemars(range(min = 0))]
    pub temperature: f64,
    /// Draws from the most probable tokens with this mass together.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub top_p: f64,
    /// Draws from this many most probable tokens; empty: from all.
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// Makes tokens that the text already has less probable; 1 is off.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub repetition_penalty: f64,
    /// With DECODER random: the noise schedule that is run backwards, as in training.
    pub noise_schedule: String,
    /// Its options, as a JSON object.
    pub noise_schedule_config: String,
    /// The model before adaptation (a Hugging Face directory or a hub id); it judges the texts (perplexity). Empty, or one without
    /// weights: no judge.
    pub base_model: String,
    /// A model recipe of a plug-in for the base model, as in training. Empty for none.
    pub model_recipe: String,
    /// Its options, as a JSON object.
    pub model_recipe_config: String,
    /// A torch model of a plug-in that base model and checkpoints are read with, as in training. Empty for none.
    pub torch_model: String,
    /// Its options, as a JSON object.
    pub torch_model_config: String,
    /// Who checks the texts.
    pub checker: Checker,
    /// Gaps to be filled (JSONL with left, answer, right); empty for none.
    pub infill: String,
    /// How many of them are filled, from the first on: the surest position first, always the most probable token.
    pub infill_samples: usize,
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
            seed: 0,
            steps: None,
            tokenizer: "data/tiny/tokenizer.json".into(),
            bos_token: "<bos>".into(),
            eos_token: "<eos>".into(),
            samples: 16,
            samples_final: 64,
            lengths: "75..110".into(),
            sample_batch: 8,
            decoder: Decoder::Random,
            score: Score::Probability,
            threshold: 0.9,
            window: None,
            block: None,
            cache: Caching::None,
            diffusion_steps: 64,
            temperature: 0.95,
            top_p: 0.9,
            top_k: None,
            repetition_penalty: 1.0,
            noise_schedule: "linear".into(),
            noise_schedule_config: "{}".into(),
            base_model: "data/tiny/model".into(),
            model_recipe: String::new(),
            model_recipe_config: "{}".into(),
            torch_model: String::new(),
            torch_model_config: "{}".into(),
            checker: Checker::World,
            infill: "data/tiny/infill.jsonl".into(),
            infill_samples: 4,
            device: "auto".into(),
            threads: 1,
        }
    }
}

impl NodeConfig for Config {
    fn validate(&self) -> Vec<Problem> {
        let name = RunDir::name_problem(&self.run).map(|allowed| Problem::new("RUN", &self.run, allowed));
        let lengths = Lengths::parse(&self.lengths).is_none().then(|| {
            Problem::new("LENGTHS", &self.lengths, "allowed: two numbers from 1 on such as 80..125, both included")
        });
        let cache = (self.cache != Caching::None && self.block.is_none()).then(|| {
            Problem::new(
                "CACHE",
                "one without BLOCK",
                "allowed: none, or set BLOCK (what is cached lies outside a block)",
            )
        });
        name.into_iter().chain(lengths).chain(cache).collect()
    }

    fn fetch(&mut self) -> Result<(), Problem> {
        difflow_hub::fetch_keys(&mut self.base_model, &mut self.tokenizer)
            .map_err(|(key, found, e)| Problem::new(key, found, e.to_string()).of_kind(Kind::File))
    }
}

impl Config {
    /// Texts from nothing at the checkpoint of `step`.
    pub fn count(&self, step: u64) -> u64 {
        match step {
            _ if Some(step) == self.steps => self.samples_final,
            // The model cannot write yet; a few texts show it.
            0 => self.samples.div_ceil(4),
            _ => self.samples,
        }
    }

    /// The keys that decide the texts of `step`. Texts made with others are not used again.
    pub fn settings(&self, step: u64) -> Value {
        json!({
            "SEED": self.seed,
            "TOKENIZER": self.tokenizer,
            "BOS_TOKEN": self.bos_token,
            "EOS_TOKEN": self.eos_token,
            "SAMPLES": self.count(step),
            "LENGTHS": self.lengths,
            "DECODER": self.decoder,
            "SCORE": self.score,
            "THRESHOLD": self.threshold,
            "WINDOW": self.window,
            "BLOCK": self.block,
            "CACHE": self.cache,
            "DIFFUSION_STEPS": self.diffusion_steps,
            "TEMPERATURE": self.temperature,
            "TOP_P": self.top_p,
            "TOP_K": self.top_k,
            "REPETITION_PENALTY": self.repetition_penalty,
            "NOISE_SCHEDULE": self.noise_schedule,
            "BASE_MODEL": self.base_model,
            "TORCH_MODEL": self.torch_model,
            "TORCH_MODEL_CONFIG": self.torch_model_config,
            "MODEL_RECIPE": self.model_recipe,
            "MODEL_RECIPE_CONFIG": self.model_recipe_config,
            "NOISE_SCHEDULE_CONFIG": self.noise_schedule_config,
            "CHECKER": self.checker,
            "INFILL": self.infill,
            "INFILL_SAMPLES": self.infill_samples,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_checkpoint_writes_little_and_the_last_much() {
        let config = Config { steps: Some(300), samples: 10, samples_final: 99, ..Config::default() };
        assert_eq!([0, 100, 300].map(|step| config.count(step)), [3, 10, 99]);
        assert_eq!(Config { steps: None, ..config }.count(300), 10);
    }

    #[test]
    fn ranges_of_the_keys_are_refused_with_what_is_allowed() {
        let read = |key: &str, value: &str| {
            let (key, value) = (key.to_owned(), value.to_owned());
            difflow_node_kit::config::read::<Config>(&[], |k| (k == key).then(|| value.clone()))
        };
        for (key, value) in [
            ("TOP_P", "0"),
            ("TOP_P", "1.5"),
            ("TEMPERATURE", "-1"),
            ("LENGTHS", "9..3"),
            ("RUN", "../x"),
            ("CACHE", "dual"),
            ("BLOCK", "0"),
            ("WINDOW", "0"),
        ] {
            let text = read(key, value).unwrap_err().to_string();
            assert!(text.contains(key) && text.contains("allowed"), "{text}");
        }
        assert_eq!(read("TOP_P", "1").unwrap().top_p, 1.0);
        assert_eq!(read("STEPS", "").unwrap().steps, None);
    }
}
