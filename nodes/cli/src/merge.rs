//! `difflow merge`: an adapter and its base model as one model.

use std::path::PathBuf;

use clap::Args;
use difflow_model::{Device, Model};
use eyre::{Context, Result, ensure};

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
    /// A new folder: config.json, model.safetensors and the tokenizer's files.
    #[arg(long)]
    out: PathBuf,
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
        let out = self.out.display();
        std::fs::create_dir(&self.out).with_context(|| format!("--out: cannot make {out}, which must be new"))?;
        model.save(&self.out)?;
        // What a user of the checkpoint must know, where it says something.
        let origin = difflow_schema::origin::ORIGIN;
        if dir.join(origin).is_file() {
            std::fs::copy(dir.join(origin), self.out.join(origin)).with_context(|| format!("cannot write to {out}"))?;
        }
        println!("{out}: {} parameters", model.parameter_count());
        Ok(())
    }
}
