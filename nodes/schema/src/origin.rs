//! `origin.json` of a checkpoint: what it was made from and how, so that its users need no other node's keys.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::facts::ExampleFacts;

/// Its name in the checkpoint's folder.
pub const ORIGIN: &str = "origin.json";

/// A component of a plug-in, or a built-in one, as a key and its `…_CONFIG` name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Name, id or path.
    pub name: String,
    /// Its options, as a JSON object.
    pub config: String,
}

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Folder of the base model, absolute.
    pub base_model: PathBuf,
    /// The recipe that the base model is read with.
    pub model_recipe: Option<Component>,
    /// The torch model that base model and checkpoint are read with.
    pub torch_model: Option<Component>,
    /// The noise schedule of training.
    pub noise_schedule: Component,
    /// The sizes of blocks in training, as the noiser's key BLOCK_SIZE spells them; `None` where rows were not cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<String>,
    /// sha256 of tokenizer.json.
    pub tokenizer_sha256: String,
    /// The token that begins a document.
    pub bos: u32,
    /// The token that ends a document; it may be the same.
    pub eos: u32,
    /// Tokens of a training row.
    pub sequence_length: usize,
    /// Optimizer steps of the run: the checkpoint after this many is the last.
    pub steps: u64,
    /// Entropy in nats of the lengths of the training documents, as cut; `None` where it is not known.
    pub length_entropy: Option<f64>,
    /// Tokens of the longest canvas that documents with an open end were given; `None` where every canvas ends with its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canvas: Option<usize>,
    /// How conversations became rows; `None` where documents were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<ExampleFacts>,
}

impl Origin {
    /// Reads that of the checkpoint in `dir`. Returns `None` where there is none: checkpoints of an older difflow, and models
    /// that are no checkpoint.
    ///
    /// # Errors
    /// When the file cannot be read, or is no origin.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(ORIGIN)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => Ok(Some(serde_json::from_slice(&bytes?)?)),
        }
    }
}
