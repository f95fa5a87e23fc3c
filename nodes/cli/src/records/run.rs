//! Reads a run's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use difflow_schema::run::RunDir;
use eyre::{Context, Result, eyre};
use serde_json::Value;

use crate::records::metrics::{self, Metrics};

/// A run.
pub struct Run {
    pub name: String,
    pub folder: PathBuf,
    /// run.json; null where there is none.
    pub record: Value,
    pub metrics: Metrics,
    /// Steps of its checkpoints.
    pub checkpoints: Vec<u64>,
}

impl Run {
    /// Reads the run of that name among `runs`; a path to a run's folder does as well.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(runs: &Path, name: &str) -> Result<Self> {
        let inside = runs.join(name);
        let folder = if inside.is_dir() { inside } else { PathBuf::from(name) };
        if !folder.is_dir() {
            let there = names(runs);
            let there = if there.is_empty() { "no run".to_owned() } else { there.join(", ") };
            return Err(eyre!("there is no run `{name}` in {}; there is: {there}", runs.display()));
        }
        let name = folder.file_name().map_or_else(|| name.to_owned(), |name| name.to_string_lossy().into_owned());
        let dir = RunDir::new(folder.parent().unwrap_or(Path::new("")), &name);
        let record = match std::fs::read(dir.record()) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is no run record", dir.record().display()))?,
            Err(_) => Value::Null,
        };
        let metrics = metrics::read(&dir.metrics())?;
        let checkpoints =
            dir.checkpoint_steps().with_context(|| format!("cannot read {}", dir.checkpoints().display()))?;
        Ok(Self { name, folder, record, metrics, checkpoints })
    }

    /// Every run among `runs`, by name.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn all(runs: &Path) -> Result<Vec<Self>> {
        names(runs).iter().map(|name| Self::open(runs, name)).collect()
    }

    /// The keys that it was run with, as `node.KEY`. In a record of an older difflow those of the dataflow's `env:` have no node.
    pub fn keys(&self) -> BTreeMap<String, String> {
        let all = self.record["configuration"].as_object().into_iter().flatten();
        all.map(|(key, value)| (key.clone(), plain(value))).collect()
    }

    /// The last optimizer step that was measured, or of a checkpoint.
    pub fn last_step(&self) -> Option<u64> {
        metrics::last(&self.metrics, "loss").map(|(step, _)| step).max(self.checkpoints.last().copied())
    }
}

/// A JSON value as a person writes it.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The folders in `runs` that look like runs.
fn names(runs: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(runs).into_iter().flatten().filter_map(Result::ok);
    let is_run = |path: &Path| ["run.json", "checkpoints", "metrics"].iter().any(|part| path.join(part).exists());
    let found = entries.filter(|entry| is_run(&entry.path()));
    let mut names: Vec<String> = found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
