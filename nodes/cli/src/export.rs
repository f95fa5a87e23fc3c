//! `difflow export`: a checkpoint as a folder for others. And what every folder for others consists of.

use std::path::{Path, PathBuf};

use clap::Args;
use difflow_model::{Device, Model};
use difflow_schema::origin::{ORIGIN, Origin};
use difflow_schema::run::{MANIFEST, Manifest, RunDir, write_atomically};
use eyre::{Context, Result, ensure};

use crate::card;

pub const EXAMPLES: &str = "\
Examples:
  difflow export --checkpoint runs/mine --out mine                                         the run's last checkpoint
  difflow export --checkpoint runs/mine/checkpoints/step-00001000 --out mine --license apache-2.0";

#[derive(Args)]
pub struct Export {
    /// A checkpoint, or the folder of a run (its last checkpoint).
    #[arg(long)]
    checkpoint: PathBuf,
    /// A new folder: the model without the optimizer's state, the tokenizer's files, the Python file by which `transformers` computes it,
    /// and a card (README.md).
    #[arg(long)]
    out: PathBuf,
    /// Licence of the weights by its name at Hugging Face, such as apache-2.0, for the card. Default: the card names none.
    #[arg(long)]
    license: Option<String>,
}

impl Export {
    pub fn run(self) -> Result<()> {
        let folder = last_checkpoint(&self.checkpoint)?;
        if folder.join(MANIFEST).is_file() {
            Manifest::verify(&folder)?;
        }
        let model = Model::load(&folder, Device::Cpu)?;
        ensure!(
            model.adapter().is_none(),
            "--checkpoint {}: it is an adapter; `difflow merge` writes it and its base model as one, with a card",
            folder.display()
        );
        publish(&model, &folder, &self.out, self.license.as_deref())
    }
}

/// The folder with config.json: the given one, the last checkpoint of a run, or that of a hub id.
fn last_checkpoint(given: &Path) -> Result<PathBuf> {
    let run = RunDir::new(given, "");
    match run.checkpoint_steps()?.last() {
        Some(&step) if !given.join("config.json").exists() => Ok(run.checkpoint(step)),
        _ => crate::inspect::folder(&given.display().to_string()),
    }
}

/// Writes a model that was read from the checkpoint in `from` into the new folder `out`, with what its users must know and a card, which is
/// written last.
pub fn publish(model: &Model, from: &Path, out: &Path, license: Option<&str>) -> Result<()> {
    let shown = out.display();
    std::fs::create_dir(out).with_context(|| format!("--out: cannot make {shown}, which must be new"))?;
    let saved = model.save(out)?;
    let cannot = || format!("cannot write to {shown}");
    if let Some(mut origin) = Origin::read(from).with_context(|| from.join(ORIGIN).display().to_string())? {
        // On another machine only the id names it.
        if let Some(id) = card::hub_id(&origin.base_model) {
            origin.base_model = id.into();
        }
        write_atomically(&out.join(ORIGIN), &serde_json::to_vec_pretty(&origin)?).with_context(cannot)?;
    }
    let code = saved.iter().any(|file| file.name == "modeling_difflow.py");
    let card = card::text(model, from, license, code)?;
    write_atomically(&out.join("README.md"), card.as_bytes()).with_context(cannot)?;
    println!("{shown}: {} parameters", model.parameter_count());
    Ok(())
}
