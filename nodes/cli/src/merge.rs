//! `difflow merge`: an adapter and its base model as one model.

use std::path::PathBuf;

use clap::Args;
use difflow_model::{Device, Model};
use eyre::{Result, ensure};

use crate::export::publish;

pub const EXAMPLES: &str = "\
Examples:
  difflow merge --checkpoint runs/mine/checkpoints/step-00001000 --out merged
  difflow merge --checkpoint data/tiny/model --adapter my-adapter --out merged";

#[derive(Args)]
pub struct Merge {
    /// A checkpoint that is an adapter; with --adapter, the base model.
    #[arg(long)]
    checkpoint: String,
    /// A folder with an adapter in PEFT's files.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// A new folder: config.json, model.safetensors, the tokenizer's files, the Python file by which `transformers` computes it, and a card
    /// (README.md).
    #[arg(long)]
    out: PathBuf,
    /// Licence of the weights by its name at Hugging Face, such as apache-2.0, for the card. Default: the card names none.
    #[arg(long)]
    license: Option<String>,
}

impl Merge {
    pub fn run(self) -> Result<()> {
        let dir = crate::inspect::folder(&self.checkpoint)?;
        let mut model = Model::load(&dir, Device::Cpu)?;
        if let Some(adapter) = &self.adapter {
            model.load_adapter(adapter, &dir)?;
        }
        ensure!(
            model.adapter().is_some(),
            "--checkpoint {}: it is no adapter, and --adapter names none",
            dir.display()
        );
        model.merge_adapter()?;
        publish(&model, &dir, &self.out, self.license.as_deref())
    }
}
