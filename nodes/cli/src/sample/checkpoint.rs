//! The model that writes, with its tokenizer.

use std::path::{Path, PathBuf};

use difflow_model::{Device, Model, ObjectiveKind};
use difflow_text::Words;
use eyre::{Result, bail, eyre};

use crate::sample::arguments::{Arguments, Decoder};
use crate::sample::tasks::Task;

/// A loaded checkpoint.
pub struct Checkpoint {
    pub path: PathBuf,
    pub model: Model,
    pub words: Words,
}

impl Checkpoint {
    /// Loads what --checkpoint, --tokenizer and --device name.
    ///
    /// # Errors
    /// When one of them cannot be used, or they do not fit each other.
    pub fn open(arguments: &Arguments) -> Result<Self> {
        let path = folder(&arguments.checkpoint)?;
        let model = Model::load(&path, Device::open(&arguments.device)?)?;
        let tokenizer = arguments.tokenizer.clone().unwrap_or_else(|| path.join("tokenizer.json"));
        let config = model.config();
        let eos = config.eos_token_ids.first().copied();
        let Some(bos) = config.bos_token_id.or(eos) else {
            bail!("{}: found neither bos_token_id nor eos_token_id; a text has to begin with one", path.display());
        };
        let words = Words::with_ids(&tokenizer.to_string_lossy(), bos, eos.unwrap_or(bos))
            .and_then(|words| words.fit(config.vocab_size).map(|()| words))
            .map_err(|unfit| {
                eyre!("--tokenizer: found `{}`; {}; --tokenizer FILE gives another", unfit.found, unfit.allowed)
            })?;
        Ok(Self { path, model, words })
    }

    /// The decoder asked for, or the one that suits the model.
    ///
    /// # Errors
    /// When a base model is to fill a canvas.
    pub fn decoder(&self, arguments: &Arguments) -> Result<Decoder> {
        let adapted = self.model.config().adapted.as_ref();
        let fills = adapted.is_some_and(|adapted| adapted.objective != ObjectiveKind::Ar);
        match arguments.decoder {
            None if fills => Ok(Decoder::Random),
            None => Ok(Decoder::Ar),
            Some(decoder) if decoder != Decoder::Ar && adapted.is_none() => {
                bail!("{} is a base model without a mask token; it can write with `--decoder ar`", self.path.display())
            }
            Some(decoder) => Ok(decoder),
        }
    }

    /// What may make the texts worse than the model could.
    pub fn doubts(&self, tasks: &[Task]) -> Vec<String> {
        let longest = tasks.iter().map(Task::longest).max().unwrap_or(0);
        let context = self.model.config().max_positions;
        let mut doubts = Vec::new();
        if longest > context {
            doubts.push(format!(
                "a text may become {longest} tokens long, the model was trained on at most {context}; expect nonsense beyond"
            ));
        }
        doubts.extend(tasks.iter().filter_map(|task| task.doubt.clone()));
        doubts
    }
}

/// The folder with config.json: the given one, or the last checkpoint of a run.
fn folder(given: &Path) -> Result<PathBuf> {
    if given.join("config.json").exists() {
        return Ok(given.to_owned());
    }
    let entries = std::fs::read_dir(given.join("checkpoints")).into_iter().flatten().flatten();
    let steps = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.strip_prefix("step-").is_some_and(|step| step.parse::<u64>().is_ok()) && path.join("config.json").exists()
    });
    steps.max().ok_or_else(|| {
        eyre!(
            "--checkpoint: found `{}`; allowed: a folder with config.json, or that of a run with checkpoints",
            given.display()
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stands_for_its_last_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        for step in ["step-00000200", "step-00001000", "step-00001200.partial", "step-00001100"] {
            std::fs::create_dir_all(dir.path().join("checkpoints").join(step)).unwrap();
        }
        for step in ["step-00000200", "step-00001000", "step-00001200.partial"] {
            std::fs::write(dir.path().join("checkpoints").join(step).join("config.json"), "{}").unwrap();
        }
        assert_eq!(folder(dir.path()).unwrap(), dir.path().join("checkpoints/step-00001000"));
        let one = dir.path().join("checkpoints/step-00000200");
        assert_eq!(folder(&one).unwrap(), one);
        assert!(folder(&dir.path().join("nowhere")).unwrap_err().to_string().contains("config.json"));
    }
}
