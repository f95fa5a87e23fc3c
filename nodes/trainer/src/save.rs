//! A checkpoint folder: written under a temporary name, every file synced, then renamed. It is either complete or
//! absent.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use difflow_model::Snapshot;
use difflow_schema::Checkpoint;
use difflow_schema::audit::{self, Event, Link};
use difflow_schema::run::{
    CheckpointError, FileRecord, MANIFEST, Manifest, RunDir, bytes_sha256, sync_folder, write_atomically,
};
use eyre::{Context, Result};

/// The plug-ins that trained the checkpoint.
pub const PLUGINS: &str = "plugins.json";
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

/// Everything that a checkpoint holds, in memory of its own.
#[derive(Debug)]
pub struct Content {
    /// Weights, average, optimizer, and the files that travel with the model.
    pub snapshot: Snapshot,
    /// Small files by name.
    pub beside: Vec<(&'static str, Vec<u8>)>,
    /// Where training stood.
    pub position: Position,
    /// The audit's record, but for the checkpoint's own name.
    pub link: Link,
}

/// Makes the folder in which the checkpoint of `step` is written, empty.
///
/// # Errors
/// When it cannot be made.
pub fn prepare(dir: &RunDir, step: u64) -> Result<PathBuf> {
    let partial = partial(dir, step);
    let make = || {
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)
    };
    make().with_context(|| format!("cannot make the folder {}; is the disk full?", partial.display()))?;
    Ok(partial)
}

/// The folder in which the checkpoint of `step` is written.
pub fn partial(dir: &RunDir, step: u64) -> PathBuf {
    dir.checkpoint(step).with_extension("partial")
}

/// Writes the checkpoint into the folder that was prepared for it, gives it its name, and describes it.
///
/// # Errors
/// When the disk does not take it; nothing of it is left then.
pub fn write(dir: &RunDir, content: &Content) -> Result<Checkpoint> {
    let Position { step, tokens_seen, next_seq } = content.position;
    let (path, partial) = (dir.checkpoint(step), partial(dir, step));
    let fill = || -> Result<()> {
        let saved = content.snapshot.write(&partial)?.into_iter();
        let mut files: BTreeMap<String, FileRecord> =
            saved.map(|file| (file.name, FileRecord { sha256: file.sha256, bytes: file.bytes })).collect();
        for (name, bytes) in &content.beside {
            write_atomically(&partial.join(name), bytes)?;
            files.insert((*name).into(), FileRecord { sha256: bytes_sha256(bytes), bytes: bytes.len() as u64 });
        }
        let manifest = Manifest::new(step, tokens_seen, next_seq, files).text();
        write_atomically(&partial.join(MANIFEST), &manifest)?;
        // Before the name: a checkpoint without its record could not be proved, a record without its checkpoint does no harm.
        let link = Link { checkpoint: bytes_sha256(&manifest), ..content.link.clone() };
        audit::append(&dir.audit(), &Event::Checkpoint(link))?;
        fs::rename(&partial, &path)?;
        Ok(sync_folder(&dir.checkpoints())?)
    };
    if let Err(e) = fill() {
        // Half a checkpoint is of no use, and a full disk needs the space.
        _ = fs::remove_dir_all(&partial);
        return Err(e.wrap_err(format!("cannot write checkpoint {}; is the disk full?", path.display())));
    }
    describe(dir, step)
}

/// The message that announces the checkpoint of `step`.
///
/// # Errors
/// When its manifest cannot be read.
pub fn describe(dir: &RunDir, step: u64) -> Result<Checkpoint> {
    let path = dir.checkpoint(step);
    let (manifest, sha256) = Manifest::read(&path)?;
    let bytes = manifest.bytes();
    let path = std::path::absolute(path)?.display().to_string();
    Ok(Checkpoint { step, path, sha256, bytes, tokens_seen: manifest.tokens_seen })
}

/// A checkpoint whose files are all as they were written.
#[derive(Debug)]
pub struct Good {
    /// Where training stood.
    pub position: Position,
    /// sha256 of its manifest.
    pub sha256: String,
}

/// The last good checkpoint; damaged ones are named and passed over.
///
/// # Errors
/// When the folder cannot be read or changed.
pub fn last_good(dir: &RunDir) -> Result<Option<Good>> {
    for step in dir.checkpoint_steps()?.into_iter().rev() {
        let path = dir.checkpoint(step);
        match verify(&path, step) {
            Ok(good) => return Ok(Some(good)),
            Err(error) => {
                eprintln!("warning: checkpoint of step {step} is passed over: {error}");
                // Out of the way: training will reach this step again and must be able to write it.
                let mut names = (1..).map(|n| path.with_extension(format!("damaged-{n}")));
                if let Some(aside) = names.find(|aside| !aside.exists()) {
                    fs::rename(&path, &aside).with_context(|| format!("cannot move {} aside", path.display()))?;
                }
            }
        }
    }
    Ok(None)
}

fn verify(path: &Path, wanted: u64) -> Result<Good, CheckpointError> {
    let (manifest, sha256) = Manifest::verify(path)?;
    let Manifest { step, tokens_seen, next_seq, .. } = manifest;
    if manifest.format() == 1 {
        eprintln!(
            "warning: the checkpoint of step {step} is of format 1, by an older difflow: its files are as they were written, but what it was \
             trained on is not on record, so `difflow inspect run` will not be able to prove that of this run"
        );
    }
    if step != wanted {
        let (found, wanted) = (format!("step {step}"), format!("step {wanted} by its folder's name"));
        return Err(CheckpointError::Damaged { path: path.join(MANIFEST), found, wanted });
    }
    Ok(Good { position: Position { step, tokens_seen, next_seq }, sha256 })
}

/// Removes what a killed process left half written or half removed. Only for who holds the run's lock.
///
/// # Errors
/// When the folder cannot be read or changed.
pub fn tidy(dir: &RunDir) -> Result<()> {
    let folder = dir.checkpoints();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "partial" || ending == "pruned") {
            match fs::remove_dir_all(&path) {
                // The checkpointer of a killed run may still be at it.
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
    }
    Ok(sync_folder(dir.root())?)
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
