//! The node's keys.

use difflow_inference::{Caching, Compute, Decoding, IN_CHECKPOINT, in_checkpoint};
use difflow_node_kit::record::deciding;
use difflow_node_kit::{Config as NodeConfig, Problem, RunKeys};
use difflow_text::Lengths;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Configuration of the sampler. What it needs to know of the model, the checkpoint says.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Texts from nothing per checkpoint, or, of a model that is finetuned on conversations, answers to the prompts of the run's held-out
    /// ones; a quarter of them at step 0.
    pub samples: u64,
    /// The same at the last checkpoint.
    #[schemars(extend("x-may-change" = true))]
    pub samples_final: u64,
    /// Tokens of a text from nothing, its end included: lowest and highest number, drawn per text. `canvas` for a model that was trained
    /// with an open end (OPEN_END): as many as its canvas has, in which the text ends by itself.
    pub lengths: String,
    /// Canvases of one forward pass.
    #[schemars(range(min = 1), extend("x-may-change" = true))]
    pub sample_batch: usize,
    /// How the texts are written.
    #[serde(flatten)]
    pub decoding: Decoding,
    /// The model that judges the texts (perplexity): a folder or a hub id, with the same tokenizer. Empty: the base model of the run,
    /// where it has weights. none: nobody.
    pub judge: String,
    /// A command that checks the texts: it reads one JSON object a line, `{"text": …}` or `{"prompt": …, "response": …}`, and answers one line
    /// a text, `ok` or what is wrong.
    /// Empty or none: nobody.
    pub checker: String,
    /// Gaps to be filled (JSONL with left, answer, right); empty for none.
    pub infill: String,
    /// How many of them are filled, from the first on: the surest position first, always the most probable token.
    pub infill_samples: usize,
    #[serde(flatten)]
    pub compute: Compute,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunKeys::default(),
            samples: 16,
            samples_final: 64,
            lengths: "75..110".into(),
            sample_batch: 8,
            decoding: Decoding::default(),
            judge: String::new(),
            checker: String::new(),
            infill: String::new(),
            infill_samples: 4,
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
            "NOISE_SCHEDULE" | "NOISE_SCHEDULE_CONFIG" => Some("decoding has a schedule of its own"),
            "BASE_MODEL" => Some("JUDGE names the model that judges the texts"),
            "STEPS" => Some(IN_CHECKPOINT),
            _ => in_checkpoint(key),
        }
    }

    fn validate(&self) -> Vec<Problem> {
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
        lengths.into_iter().chain(cache).collect()
    }
}

/// LENGTHS of a text that ends by itself.
pub const CANVAS: &str = "canvas";

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

    /// The keys that decide the texts of `step`; SAMPLES is their number, whichever key says it.
    pub fn settings(&self, step: u64, steps: Option<u64>) -> Value {
        deciding(&Self { samples: self.count(step, steps), ..self.clone() })
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

    #[test]
    fn keys_that_decide_no_text_may_change_when_a_run_is_resumed() {
        let settings = Config::default().settings(1, None);
        for key in ["DECODER", "DIFFUSION_STEPS", "TOP_P", "SEED", "JUDGE", "CHECKER", "GUIDANCE"] {
            assert!(settings.get(key).is_some(), "{key}");
        }
        for key in ["RUN", "RUNS", "SAMPLES_FINAL", "SAMPLE_BATCH", "DEVICE", "THREADS"] {
            assert!(settings.get(key).is_none(), "{key}");
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
