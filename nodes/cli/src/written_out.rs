//! The file that dora reads instead of one with modules or with keys changed for this run.

use std::fs;
use std::path::{Path, PathBuf};

use eyre::{Context, Result};

/// A plain dataflow file. It lies beside the file that it stands for, because paths are relative to it, while the run lasts;
/// then among the logs.
pub struct WrittenOut {
    path: PathBuf,
    kept: PathBuf,
}

impl WrittenOut {
    /// Writes `text` for the dataflow file `file`; it is kept beside the log file `log`.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn new(file: &Path, text: &str, log: &Path) -> Result<Self> {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let path = file.with_file_name(format!(".{name}-{}.yml", std::process::id()));
        let head = format!("# {} as it ran; paths are relative to the folder of that file.\n", file.display());
        fs::write(&path, head + text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, kept: log.with_extension("yml") })
    }

    /// Where it is while the run lasts.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WrittenOut {
    fn drop(&mut self) {
        // dora's note on a build that there was none of.
        let mut session = self.path.file_stem().unwrap_or_default().to_owned();
        session.push(".dora-session.yaml");
        _ = fs::remove_file(self.kept.with_file_name(session));
        if let Err(e) = fs::rename(&self.path, &self.kept) {
            eprintln!("warning: cannot move {} to {}: {e}", self.path.display(), self.kept.display());
        }
    }
}
