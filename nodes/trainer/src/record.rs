//! run.json and the lock: a run's name belongs to one configuration and to one process at a time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use difflow_node_kit::{Node, Problem, Problems};
use difflow_schema::audit::{self, Event};
use difflow_schema::lock::{self, LockError};
use difflow_schema::run::{RunDir, write_atomically};
use eyre::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plugins::{self, Plugins};
use crate::save::Position;

/// Keys that change how a run goes, but not what comes out: they may differ when a run is resumed.
/// They are not recorded either, so that the page's token stands in no file of the run.
const FREE_KEYS: [&str; 14] = [
    "PREFETCH",
    "PATIENCE_SECONDS",
    "SLOW_DOWN_SECONDS",
    "PROGRESS_SECONDS",
    "RUNS",
    "DOCUMENTS_PER_BATCH",
    "KEEP_LAST",
    "KEEP_EVERY",
    "KEEP_BEST",
    "PAGE",
    "PAGE_HOST",
    "PAGE_PORT",
    "PAGE_TOKEN",
    "TENSORBOARD",
];

/// What run.json holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// difflow's version.
    pub difflow: String,
    /// Every key of the dataflow file, as `node.KEY`; shared keys have no node.
    pub configuration: BTreeMap<String, Value>,
    /// sha256 of the base model's and the tokenizer's files.
    pub inputs: BTreeMap<String, String>,
    /// The plug-ins that the run began with.
    #[serde(default)]
    pub plugins: Plugins,
    /// Of another run, which this one began with a checkpoint of (`difflow run --fork`).
    #[serde(default)]
    pub fork: Option<Value>,
}

/// Takes the run: locks its folder and compares its configuration with the one that began it. Keep the file: dropping it
/// gives the run back. The record is that of the run as it is now.
pub fn claim(dir: &RunDir, node: &Node, inputs: BTreeMap<String, String>, plugins: &Plugins) -> Result<(File, Record)> {
    let unwritable = |e: &dyn std::fmt::Display| {
        Problems::from(Problem::new("RUNS", dir.root().display(), format!("this folder cannot be written to: {e}")))
    };
    fs::create_dir_all(dir.root()).map_err(|e| unwritable(&e))?;
    let lock = match lock::take(&dir.lock(), Duration::ZERO) {
        Err(LockError::Taken { holder, .. }) => {
            let seconds = lock::PATIENCE.as_secs();
            eprintln!("warning: process {holder} has this run; waiting up to {seconds} s for it to end");
            lock::take(&dir.lock(), lock::PATIENCE)
        }
        taken => taken,
    };
    let lock = lock.map_err(|e| match e {
        LockError::Taken { holder, .. } => {
            let taken =
                format!("another process ({holder}) is training this run; wait for it, stop it, or choose another RUN");
            Problems::from(Problem::new("RUN", dir.root().display(), taken))
        }
        LockError::Io { source, .. } => unwritable(&source),
    })?;
    let fork = match fs::read(dir.fork()) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        text => {
            let text = text.with_context(|| format!("cannot read {}", dir.fork().display()))?;
            Some(serde_json::from_slice(&text).with_context(|| dir.fork().display().to_string())?)
        }
    };
    let (difflow, configuration) = (env!("CARGO_PKG_VERSION").into(), flatten(&node.dataflow()?));
    let now = Record { difflow, configuration, inputs, plugins: plugins.clone(), fork };
    let path = dir.record();
    if path.exists() {
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let before: Record = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a run record; move the folder away", path.display()))?;
        Problems(differences(&before, &now)).into_result()?;
        for change in plugins::changes(&before.plugins, &now.plugins) {
            eprintln!("warning: {change}");
        }
    } else {
        write_atomically(&path, &serde_json::to_vec_pretty(&now)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok((lock, now))
}

/// Notes in the audit that a process begins to train at `position`, from the checkpoint of that manifest sha256.
pub fn started(dir: &RunDir, Position { step, next_seq, .. }: Position, checkpoint: Option<String>) -> Result<()> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let event = Event::Started { step, next_seq, checkpoint, at };
    audit::append(&dir.audit(), &event).with_context(|| format!("cannot write {}", dir.audit().display()))
}

/// The `env:` blocks of a dataflow as `node.KEY` → value.
fn flatten(dataflow: &Value) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    let mut add = |prefix: &str, env: Option<&Value>| {
        for (key, value) in env.and_then(Value::as_object).into_iter().flatten() {
            if !FREE_KEYS.contains(&key.as_str()) {
                keys.insert(format!("{prefix}{key}"), value.clone());
            }
        }
    };
    add("", dataflow.get("env"));
    for node in dataflow.get("nodes").and_then(Value::as_array).into_iter().flatten() {
        let id = node.get("id").and_then(Value::as_str).unwrap_or_default();
        add(&format!("{id}."), node.get("env"));
    }
    keys
}

fn differences(before: &Record, now: &Record) -> Vec<Problem> {
    let names = before.configuration.keys().chain(now.configuration.keys());
    // Records of an older difflow may hold keys that are free now.
    let free = |name: &str| FREE_KEYS.contains(&name.rsplit_once('.').map_or(name, |(_, key)| key));
    let names: std::collections::BTreeSet<&String> = names.filter(|name| !free(name)).collect();
    let show = |value: Option<&Value>| value.map_or("not set".to_owned(), Value::to_string);
    let mut problems = Vec::new();
    for name in names {
        let (old, new) = (before.configuration.get(name), now.configuration.get(name));
        if old != new {
            let was = format!("this run began with {}; put it back, or choose another RUN", show(old));
            problems.push(Problem::new(name, show(new), was));
        }
    }
    for (file, sha256) in &before.inputs {
        if now.inputs.get(file) != Some(sha256) {
            problems.push(Problem::new(
                file,
                "changed content",
                "this run began with another file; choose another RUN",
            ));
        }
    }
    problems
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(dataflow: Value) -> Record {
        Record {
            difflow: "0".into(),
            configuration: flatten(&dataflow),
            inputs: BTreeMap::new(),
            plugins: Plugins::new(),
            fork: None,
        }
    }

    fn dataflow(learning_rate: f64, prefetch: u64) -> Value {
        json!({"env": {"SEED": 1}, "nodes": [{"id": "trainer", "env": {"LEARNING_RATE": learning_rate, "PREFETCH": prefetch}}, {"id": "monitor"}]})
    }

    #[test]
    fn a_changed_key_is_shown_with_both_values() {
        let problems = differences(&record(dataflow(0.1, 4)), &record(dataflow(0.2, 4)));
        assert_eq!(problems.len(), 1);
        let text = problems[0].to_string();
        assert!(text.contains("trainer.LEARNING_RATE") && text.contains("0.2") && text.contains("0.1"), "{text}");
    }

    #[test]
    fn prefetch_may_change_on_resume() {
        assert!(differences(&record(dataflow(0.1, 4)), &record(dataflow(0.1, 9))).is_empty());
    }

    /// KEEP_LAST was in the records of 2026-11 and may change now.
    #[test]
    fn a_free_key_in_an_old_record_is_no_difference() {
        let mut old = record(dataflow(0.1, 4));
        old.configuration.insert("checkpointer.KEEP_LAST".into(), 3.into());
        old.configuration.insert("PREFETCH".into(), 3.into());
        assert!(differences(&old, &record(dataflow(0.1, 4))).is_empty());
    }

    #[test]
    fn a_key_that_went_away_is_a_difference() {
        let without = json!({"env": {}, "nodes": [{"id": "trainer", "env": {"LEARNING_RATE": 0.1}}]});
        let problems = differences(&record(dataflow(0.1, 4)), &record(without));
        assert!(problems[0].to_string().starts_with("SEED: found `not set`"), "{problems:?}");
    }
}
