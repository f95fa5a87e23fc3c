//! The folder of a run: where its files are, and how files are written so that none is ever incomplete.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use crate::manifest::{CheckpointError, FileRecord, MANIFEST, Manifest};

/// `RUNS/RUN/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The folder of run `run` among `runs`.
    pub fn new(runs: impl AsRef<Path>, run: &str) -> Self {
        Self(runs.as_ref().join(run))
    }

    /// Why `name` cannot name a run; `None` when it can. A name stays inside the folder of runs.
    pub fn name_problem(name: &str) -> Option<&'static str> {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let fits = plain && !name.is_empty() && !name.starts_with('.');
        (!fits).then_some("allowed: letters, digits, - _ and ., not starting with a point")
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The resolved configuration and where everything came from: [`crate::Record`].
    pub fn record(&self) -> PathBuf {
        self.0.join("run.json")
    }

    /// Held for the moment in which a node writes its part of the record.
    pub fn record_lock(&self) -> PathBuf {
        self.0.join("run.lock")
    }

    /// Where rank 0 of several trainers waits for the others, until they have met.
    pub fn ranks(&self) -> PathBuf {
        self.root().join("ranks.json")
    }

    /// Held by the trainer while it runs.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Which batches went into which checkpoint: see [`crate::audit`].
    pub fn audit(&self) -> PathBuf {
        self.0.join("audit.jsonl")
    }

    /// The files of the corpus as they were when the run began.
    pub fn corpus(&self) -> PathBuf {
        self.0.join("corpus.json")
    }

    /// Held-out documents that were split off the corpus, where the run has none of its own: one column, `text`.
    pub fn heldout(&self) -> PathBuf {
        self.0.join("heldout.parquet")
    }

    /// Which checkpoint of another run this one began with, if it did.
    pub fn fork(&self) -> PathBuf {
        self.0.join("fork.json")
    }

    /// All checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// The checkpoint after `step` optimizer steps.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(step_name(step))
    }

    /// The tokenizer's store.
    pub fn tokens(&self) -> PathBuf {
        self.0.join("tokens")
    }

    /// Metrics as Parquet parts.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics")
    }

    /// The samples of a checkpoint.
    pub fn samples(&self, step: u64) -> PathBuf {
        self.0.join("samples").join(format!("{}.json", step_name(step)))
    }

    /// The scores of a checkpoint.
    pub fn scores(&self, step: u64) -> PathBuf {
        self.0.join("scores").join(format!("{}.json", step_name(step)))
    }

    /// Event files for TensorBoard.
    pub fn tensorboard(&self) -> PathBuf {
        self.0.join("tensorboard")
    }

    /// What a sweep measured of the last checkpoint.
    pub fn measured(&self) -> PathBuf {
        self.0.join("measured.json")
    }

    /// The final report.
    pub fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// Steps of the checkpoints that are there, in order. A folder under a temporary name is none.
    pub fn checkpoint_steps(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(self.checkpoints()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_str().unwrap_or_default();
            let step: Option<u64> = name.strip_prefix("step-").and_then(|step| step.parse().ok());
            steps.extend(step.filter(|&step| step_name(step) == name));
        }
        steps.sort_unstable();
        Ok(steps)
    }
}

fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Writes a file so that a reader, or a kill at any moment, sees the old content or the new one, never a part: temporary name,
/// sync, rename, sync of the folder. Makes the folder if needed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    sync_folder(folder)
}

/// Makes a rename inside `folder` durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// sha256 of a file, in hex, and its size in bytes.
pub fn file_sha256(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((hex::encode(hasher.finalize()), bytes));
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// sha256 of bytes, in hex.
pub fn bytes_sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_run_name_stays_inside_the_folder_of_runs() {
        for bad in ["", "../x", "a/b", ".hidden", "/etc"] {
            assert!(RunDir::name_problem(bad).is_some(), "{bad}");
        }
        assert_eq!(RunDir::name_problem("tiny-2026.1"), None);
    }

    #[test]
    fn checkpoints_are_listed_in_order_and_temporary_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path(), "r");
        assert!(run.checkpoint_steps().unwrap().is_empty());
        for name in ["step-00000100", "step-00000020", "step-00000200.partial", "step-7", "step-+0000009"] {
            fs::create_dir_all(run.checkpoints().join(name)).unwrap();
        }
        assert_eq!(run.checkpoint_steps().unwrap(), [20, 100]);
    }
}
