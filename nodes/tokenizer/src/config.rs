//! The keys of the tokenizer node.

use std::path::{Path, PathBuf};

use difflow_node_kit::problem::Kind;
use difflow_node_kit::{Problem, RunKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::packing::{LongDocuments, Packing};

/// How documents become sequences, and in which order they are served.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Seed of the run: the order of the sequences depends on it.
    pub seed: u64,
    /// The tokenizer's file, or the hub id of a model that has one. Empty: the `tokenizer.json` of BASE_MODEL.
    #[schemars(extend("x-by-content" = true))]
    pub tokenizer: Option<String>,
    /// Folder or hub id of the base model; the tokenizer's ids must fit the vocabulary in its config.json.
    pub base_model: String,
    /// The token that begins every document. Empty: the one that BASE_MODEL's own files name, and EOS_TOKEN where they name none.
    pub bos_token: Option<String>,
    /// The token that ends every document; padding uses its id, too. It may be the same as BOS_TOKEN. Empty: the one that BASE_MODEL's
    /// own files name.
    pub eos_token: Option<String>,
    /// Tokens in a sequence.
    #[schemars(range(min = 2, max = 1_048_576))]
    pub sequence_length: usize,
    /// Sequences in a batch.
    #[schemars(range(min = 1, max = 65_536))]
    pub micro_batch: usize,
    /// How documents fill sequences.
    pub packing: Packing,
    /// What happens to a document that is longer than a sequence, with PACKING documents.
    pub long_documents: LongDocuments,
    /// Share of the documents that get an open end: a tail of EOS_TOKEN behind their own, of random length, that is seen and masked like
    /// the text, so that a model learns to end a text somewhere in its canvas. 0: a canvas always ends with its text, and whoever writes
    /// with the model must say how long. Only with PACKING documents.
    #[schemars(range(min = 0, max = 1))]
    pub open_end: f64,
    /// Tokens of the longest document with its open end: the canvas in which the model will write. Empty: SEQUENCE_LENGTH.
    #[schemars(range(min = 3))]
    pub canvas: Option<usize>,
    /// Sequences that are shuffled among each other; the first batch leaves when so many are there. 0: corpus order.
    #[schemars(range(min = 0, max = 4_294_967_295u32))]
    pub shuffle_window: u64,
    /// How often the corpus is gone through; empty: for ever. Sequences that do not fill a last batch are left out.
    #[schemars(range(min = 1))]
    pub epochs: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunKeys::default(),
            seed: 0,
            tokenizer: None,
            base_model: "data/tiny/model".into(),
            bos_token: None,
            eos_token: None,
            sequence_length: 256,
            micro_batch: 16,
            packing: Packing::Documents,
            long_documents: LongDocuments::default(),
            open_end: 0.0,
            canvas: None,
            shuffle_window: 8192,
            epochs: None,
        }
    }
}

impl difflow_node_kit::Config for Config {
    fn run(&self) -> &RunKeys {
        &self.run
    }

    fn validate(&self) -> Vec<Problem> {
        let stream = (self.open_end > 0.0 && self.packing == Packing::Stream).then(|| {
            Problem::new("OPEN_END", self.open_end, "allowed: 0 with PACKING stream, which cuts texts anywhere")
        });
        let canvas = self.canvas.filter(|&canvas| canvas > self.sequence_length).map(|canvas| {
            Problem::new("CANVAS", canvas, format!("allowed: at most SEQUENCE_LENGTH ({})", self.sequence_length))
        });
        stream.into_iter().chain(canvas).collect()
    }

    fn fetch(&mut self) -> Result<(), Problem> {
        let mut tokenizer = self.tokenizer.take().unwrap_or_default();
        difflow_hub::fetch_keys(&mut self.base_model, &mut tokenizer)
            .map_err(|(key, found, e)| Problem::new(key, found, e.to_string()).of_kind(Kind::File))?;
        self.tokenizer = (!tokenizer.is_empty()).then_some(tokenizer);
        Ok(())
    }
}

impl Config {
    /// The tokenizer's file.
    pub fn tokenizer_file(&self) -> PathBuf {
        self.tokenizer.as_ref().map_or_else(|| Path::new(&self.base_model).join("tokenizer.json"), PathBuf::from)
    }
}
