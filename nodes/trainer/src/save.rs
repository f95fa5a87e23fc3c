//! A checkpoint folder: written under a temporary name, every file synced, then renamed. It is there whole or not at all.

use std::collections::BTreeMap;
use std::fs;

use difflow_schema::Checkpoint;
use difflow_schema::run::{FileRecord, MANIFEST, Manifest, RunDir, bytes_sha256, sync_folder, write_atomically};
use eyre::{Context, Result};

use crate::plugins::Plugins;
use crate::training::Training;

/// The plug-ins that trained the checkpoint.
const PLUGINS: &str = "plugins.json";
/// State of the annealing schedule, where it has any.
pub const ANNEALING_STATE: &str = "annealing.state";

/// Where training stands.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Position {
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens seen, padding not counted.
    pub tokens_seen: u64,
    /// The next micro-batch.
    pub next_seq: u64,
}

/// Writes the checkpoint of `position`, or finds it already there, and describes it.
pub fn save(dir: &RunDir, training: &mut Training, plugins: &Plugins, position: Position) -> Result<Checkpoint> {
    let path = dir.checkpoint(position.step);
    if path.exists() {
        return describe(dir, position.step);
    }
    let mut partial = path.clone().into_os_string();
    partial.push(".partial");
    let partial = std::path::PathBuf::from(partial);
    let mut write = || -> Result<()> {
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        let mut files: BTreeMap<String, FileRecord> = training
            .learner
            .save(&partial)?
            .into_iter()
            .map(|file| (file.name, FileRecord { sha256: file.sha256, bytes: file.bytes }))
            .collect();
        let state = training.annealing.instance_mut().save_state()?;
        let beside = [(PLUGINS, Some(serde_json::to_vec_pretty(plugins)?)), (ANNEALING_STATE, state)];
        for (name, bytes) in beside.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))) {
            write_atomically(&partial.join(name), &bytes)?;
            files.insert(name.into(), FileRecord { sha256: bytes_sha256(&bytes), bytes: bytes.len() as u64 });
        }
        let Position { step, tokens_seen, next_seq } = position;
        let manifest = Manifest { step, tokens_seen, next_seq, files };
        write_atomically(&partial.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
        fs::rename(&partial, &path)?;
        Ok(sync_folder(&dir.checkpoints())?)
    };
    write().with_context(|| format!("cannot write checkpoint {}; is the disk full?", path.display()))?;
    describe(dir, position.step)
}

/// The message that announces the checkpoint of `step`.
pub fn describe(dir: &RunDir, step: u64) -> Result<Checkpoint> {
    let path = dir.checkpoint(step);
    let (manifest, sha256) = Manifest::read(&path)?;
    let bytes = manifest.bytes();
    let path = std::path::absolute(path)?.display().to_string();
    Ok(Checkpoint { step, path, sha256, bytes, tokens_seen: manifest.tokens_seen })
}

/// The last checkpoint whose files are all as they were written; damaged ones are named and passed over.
pub fn last_good(dir: &RunDir) -> Result<Option<Position>> {
    for step in dir.checkpoint_steps()?.into_iter().rev() {
        match Manifest::verify(&dir.checkpoint(step)) {
            Ok((Manifest { step, tokens_seen, next_seq, .. }, _)) => {
                return Ok(Some(Position { step, tokens_seen, next_seq }));
            }
            Err(error) => {
                eprintln!("warning: checkpoint of step {step} is passed over: {error}");
                // Out of the way: training will reach this step again and must be able to write it.
                let path = dir.checkpoint(step);
                let aside = format!("{}.damaged-{}", path.display(), &bytes_sha256(error.to_string().as_bytes())[..8]);
                fs::rename(&path, &aside).with_context(|| format!("cannot move {} aside", path.display()))?;
            }
        }
    }
    Ok(None)
}
