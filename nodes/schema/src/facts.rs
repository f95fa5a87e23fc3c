//! What the nodes of the data path did to the data. It is part of the metadata of every message, so that a node needs
//! no copy of another node's keys and gets them from the node that owns them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::origin::Component;

/// Everything that is known so far; each node adds its own and hands the rest on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Fingerprint of the documents, from the corpus: its files, its query, its transforms, and which documents are held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corpus: Option<String>,
    /// From the corpus: documents are conversations, of which only answers are masked and learned.
    #[serde(skip_serializing_if = "is_false")]
    pub conversations: bool,
    /// From the tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerFacts>,
    /// From the noiser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_schedule: Option<Component>,
    /// From the noiser, where it cuts rows into blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<BlockFacts>,
    /// From the trainer, upstream with its demand: micro-batches of one optimizer step, over which t is stratified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accumulation: Option<u64>,
    /// The plug-ins that worked on the data, by `node.KEY`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub plugins: BTreeMap<String, Value>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How rows were cut into blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFacts {
    /// The noiser's key BLOCK_SIZE: the sizes, and how often rows have them.
    pub sizes: String,
    /// The size to decode with where nothing else is said, in positions.
    pub usual: usize,
}

/// How texts became token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenizerFacts {
    /// Its tokenizer.json, absolute.
    pub path: PathBuf,
    /// sha256 of that.
    pub sha256: String,
    /// The token that begins a document.
    pub bos: u32,
    /// The token that ends a document; it may be the same.
    pub eos: u32,
    /// Tokens of a training row.
    pub sequence_length: usize,
    /// Entropy in nats of the lengths of the training documents, as cut; `None` while the corpus has not been read to its end.
    pub length_entropy: Option<f64>,
    /// Tokens of the longest canvas that documents with an open end were given; `None` where every canvas ends with its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canvas: Option<usize>,
    /// How conversations became rows, where documents are conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<ExampleFacts>,
}

/// How conversations became rows: what runs are compared by, and what a user of the model must do likewise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExampleFacts {
    /// sha256 of the chat template; `None` where prompt and response are only joined.
    pub template: Option<String>,
    /// The template's file, absolute, where it is not one of the base model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_file: Option<PathBuf>,
    /// The date that the template gets where it asks for today's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_date: Option<String>,
    /// What stands between prompt and response that are only joined.
    pub separator: String,
    /// The tokenizer's keys PAD_POLICY and TURNS.
    pub pad_policy: String,
    pub turns: String,
    /// Whether a row may have several examples.
    pub several_a_row: bool,
    /// With PAD_POLICY eos-fill: end tokens fill an example up to a multiple of so many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_multiple: Option<usize>,
}
