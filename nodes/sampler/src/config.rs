//! The node's keys.

use difflow_inference::{Caching, Decoding};
use difflow_node_kit::{Problem, config::Config as NodeConfig};
use difflow_schema::results;
use difflow_schema::run::RunDir;
use difflow_text::Lengths;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Configuration of the sampler. What it needs to know of the model, the checkpoint says.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    /// Name of the run.
    pub run: String,
    /// Folder of all runs.
    #[schemars(extend("x-may-change" = true))]
    pub runs: String,
    /// Texts from nothing per checkpoint; a quarter of them at step 0.
    pub samples: u64,
    /// Texts from nothing at the last checkpoint.
    pub samples_final: u64,
    /// Tokens of a text from nothing, its end included: lowest and highest number, drawn per text. `canvas` for a model that was trained
    /// with an open end (OPEN_END): as many as its canvas has, in which the text ends by itself.
    pub lengths: String,
    /// Canvases of one forward pass.
    #[schemars(range(min = 1))]
    pub sample_batch: usize,
    /// How the texts are written.
    #[serde(flatten)]
    pub decoding: Decoding,
    /// The model that judges the texts (perplexity): a folder or a hub id, with the same tokenizer. Empty: the base model of the run,
    /// where it has weights. none: nobody.
    pub judge: String,
    /// A command that checks the texts: it reads one JSON object with a text a line and answers one line a text, `ok` or what is wrong.
    /// Empty or none: nobody.
    pub checker: String,
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
            samples: 16,
            samples_final: 64,
            lengths: "75..110".into(),
            sample_batch: 8,
            decoding: Decoding::default(),
            judge: String::new(),
            checker: String::new(),
            infill: String::new(),
            infill_samples: 4,
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
            ("STEPS", COPY),
            ("BASE_MODEL", "JUDGE names the model that judges the texts"),
            ("MODEL_RECIPE", COPY),
            ("MODEL_RECIPE_CONFIG", COPY),
            ("TORCH_MODEL", COPY),
            ("TORCH_MODEL_CONFIG", COPY),
            ("NOISE_SCHEDULE", "decoding has a schedule of its own"),
            ("NOISE_SCHEDULE_CONFIG", "decoding has a schedule of its own"),
        ]
    }

    fn validate(&self) -> Vec<Problem> {
        let name = RunDir::name_problem(&self.run).map(|allowed| Problem::new("RUN", &self.run, allowed));
        let lengths = (self.lengths != CANVAS && Lengths::parse(&self.lengths).is_none()).then(|| {
            let allowed = "allowed: two numbers from 1 on such as 80..125, both included, or canvas";
            Problem::new("LENGTHS", &self.lengths, allowed)
        });
        let cache = (self.decoding.cache != Caching::None && self.decoding.block.is_none()).then(|| {
            Problem::new(
                "CACHE",
                "one without BLOCK",
                "allowed: none, or set BLOCK (what is cached lies outside a block)",
            )
        });
        name.into_iter().chain(lengths).chain(cache).collect()
    }
}

/// LENGTHS of a text that ends by itself.
pub const CANVAS: &str = "canvas";

/// Keys that do not decide a text: where the run lies, and how fast it goes. SAMPLES_FINAL decides for the last checkpoint only, and
/// [`Config::settings`] says so by SAMPLES.
const FREE: [&str; 6] = ["RUN", "RUNS", "SAMPLES_FINAL", "SAMPLE_BATCH", "DEVICE", "THREADS"];

impl Config {
    /// Texts from nothing at the checkpoint of `step`, in a run of `steps` where that is known.
    pub fn count(&self, step: u64, steps: Option<u64>) -> u64 {
        match step {
            _ if Some(step) == steps => self.samples_final,
            // The model cannot write yet; a few texts show it.
            0 => self.samples.div_ceil(4),
            _ => self.samples,
        }
    }

    /// The keys that decide the texts of `step`. Texts made with others are not used again.
    pub fn settings(&self, step: u64, steps: Option<u64>) -> Value {
        results::settings(&Self { samples: self.count(step, steps), ..self.clone() }, &FREE)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_checkpoint_writes_little_and_the_last_much() {
        let config = Config { samples: 10, samples_final: 99, ..Config::default() };
        assert_eq!([0, 100, 300].map(|step| config.count(step, Some(300))), [3, 10, 99]);
        assert_eq!(config.count(300, None), 10);
        assert_eq!(config.settings(300, Some(300))["SAMPLES"], 99);
        let other = Config { samples_final: 7, ..config.clone() };
        assert_eq!(other.settings(100, Some(300)), config.settings(100, Some(300)));
        assert_ne!(other.settings(300, Some(300)), config.settings(300, Some(300)));
    }

    /// The list of keys was written by hand, here and in the evaluator, which had forgotten one. Now every key decides unless it stands here.
    #[test]
    fn every_key_decides_the_texts_but_those_that_are_free() {
        let schema = difflow_node_kit::config::schema::<Config>();
        let keys: Vec<String> = difflow_node_kit::config::keys(&schema).into_iter().map(|(key, _)| key).collect();
        let settings = Config::default().settings(1, None);
        for key in &keys {
            assert!(settings.get(key).is_some() != FREE.contains(&key.as_str()), "{key}");
        }
        assert!(FREE.iter().all(|free| keys.iter().any(|key| key == free)), "a free key that there is no more");
        for key in ["DECODER", "DIFFUSION_STEPS", "TOP_P", "SEED", "JUDGE", "CHECKER", "GUIDANCE"] {
            assert!(keys.iter().any(|known| known == key), "{key} is no key");
        }
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
            ("DECODER", "nearest"),
        ] {
            let text = read(key, value).unwrap_err().to_string();
            assert!(text.contains(key) && text.contains("allowed"), "{text}");
        }
        assert_eq!(read("TOP_P", "1").unwrap().decoding.top_p, 1.0);
        assert_eq!(read("BLOCK", "").unwrap().decoding.block, None);
        assert_eq!(read("CHECKER", "none").unwrap().checker, "none");
    }
}
