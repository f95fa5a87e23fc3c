//! The folder of a run: where everything of it lies, how files are written so that none is ever half there, and the manifest
//! that makes a checkpoint checkable.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

    /// The resolved configuration and where everything came from.
    pub fn record(&self) -> PathBuf {
        self.0.join("run.json")
    }

    /// Held by the trainer while it runs.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
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
            let step: Option<u64> =
                name.to_str().and_then(|name| name.strip_prefix("step-")).and_then(|step| step.parse().ok());
            steps.extend(step);
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
            return Ok((hex(&hasher.finalize()), bytes));
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// sha256 of bytes, in hex.
pub fn bytes_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of [`Manifest`] in a checkpoint folder.
pub const MANIFEST: &str = "manifest.json";

/// What a checkpoint consists of. It is written last: its sha256 names the whole checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Optimizer steps done.
    pub step: u64,
    /// Training tokens seen.
    pub tokens_seen: u64,
    /// The first micro-batch that was not trained on.
    pub next_seq: u64,
    /// Every other file of the folder.
    pub files: BTreeMap<String, FileRecord>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// sha256 in hex.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read.
    #[error("{}: {source}; this folder is not a complete checkpoint", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{}: not a checkpoint manifest: {source}", path.display())]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A file is not what was written.
    #[error("{}: {found}, the manifest says {wanted}: the file was damaged or changed; use an earlier checkpoint", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it was.
        wanted: String,
    },
}

impl Manifest {
    /// Reads the manifest of a checkpoint folder; its sha256 comes along.
    pub fn read(dir: &Path) -> Result<(Self, String), CheckpointError> {
        let path = dir.join(MANIFEST);
        let bytes = fs::read(&path).map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|source| CheckpointError::Manifest { path, source })?;
        Ok((manifest, bytes_sha256(&bytes)))
    }

    /// Reads the manifest and compares every file with it.
    pub fn verify(dir: &Path) -> Result<(Self, String), CheckpointError> {
        let (manifest, sha256) = Self::read(dir)?;
        for (name, wanted) in &manifest.files {
            let path = dir.join(name);
            let (sha256, bytes) =
                file_sha256(&path).map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
            let damaged =
                |found: String, wanted: String| CheckpointError::Damaged { path: path.clone(), found, wanted };
            if bytes != wanted.bytes {
                return Err(damaged(format!("{bytes} bytes"), format!("{} bytes", wanted.bytes)));
            }
            if sha256 != wanted.sha256 {
                return Err(damaged(format!("sha256 {sha256}"), wanted.sha256.clone()));
            }
        }
        Ok((manifest, sha256))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn checkpoint(dir: &Path) {
        fs::write(dir.join("model.safetensors"), b"weights").unwrap();
        let (sha256, bytes) = file_sha256(&dir.join("model.safetensors")).unwrap();
        let files = BTreeMap::from([("model.safetensors".to_owned(), FileRecord { sha256, bytes })]);
        let manifest = Manifest { step: 3, tokens_seen: 4, next_seq: 5, files };
        write_atomically(&dir.join(MANIFEST), &serde_json::to_vec(&manifest).unwrap()).unwrap();
    }

    #[test]
    fn every_flipped_bit_of_a_checkpoint_is_found() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(dir.path());
        assert_eq!(Manifest::verify(dir.path()).unwrap().0.next_seq, 5);
        let file = dir.path().join("model.safetensors");
        for byte in 0..7 {
            let mut damaged = b"weights".to_vec();
            damaged[byte] ^= 1;
            fs::write(&file, damaged).unwrap();
            assert!(matches!(Manifest::verify(dir.path()), Err(CheckpointError::Damaged { .. })));
        }
        fs::write(&file, b"weight").unwrap();
        assert!(Manifest::verify(dir.path()).unwrap_err().to_string().contains("6 bytes, the manifest says 7 bytes"));
        fs::remove_file(&file).unwrap();
        assert!(matches!(Manifest::verify(dir.path()), Err(CheckpointError::Read { .. })));
    }

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
        for name in ["step-00000100", "step-00000020", "step-00000200.partial"] {
            fs::create_dir_all(run.checkpoints().join(name)).unwrap();
        }
        assert_eq!(run.checkpoint_steps().unwrap(), [20, 100]);
    }
}
