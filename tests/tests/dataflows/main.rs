//! Whole dataflows through the real dora command: `difflow run` on the repository's own dataflow files, shortened.
#![allow(clippy::unwrap_used)]

mod adapters;
mod bad_input;
mod claims;
mod clock;
mod cluster;
mod daemons;
mod default_run;
mod disk;
mod facts;
mod faults;
mod final_checkpoint;
mod finetuning;
mod hub;
mod long_run;
mod machines;
mod modules;
mod network;
mod new_plugins;
mod object_stores;
mod order;
mod plugin_docs;
mod plugins;
mod python_nodes;
mod ranks;
mod readme;
mod real_data;
mod resume;
mod right_side;
mod serving;
mod stop;
mod sweep;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, program};
use serde_json::Value;

/// The bytes of the weights of a checkpoint, or of its adapter.
fn weights(run: &Path, step: u64) -> Vec<u8> {
    let folder = run.join(format!("checkpoints/step-{step:08}"));
    let adapter = folder.join("adapter_model.safetensors");
    let path = if adapter.exists() { adapter } else { folder.join("model.safetensors") };
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A JSON file.
fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The scores of a checkpoint by name.
fn scores(run: &Path, step: u64) -> BTreeMap<String, f64> {
    let file = json(&run.join(format!("scores/step-{step:08}.json")));
    let metrics = file["metrics"].as_object().expect("metrics").iter();
    metrics.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
}

/// A metric of a run by step.
fn metric(dataflow: &Dataflow, name: &str) -> BTreeMap<u64, f64> {
    let mut command = Command::new(program("difflow"));
    command.args(["sql", &format!("SELECT step, value FROM metrics WHERE name = '{name}'"), "--json", "--runs"]);
    command.arg(dataflow.run_folder().parent().unwrap());
    let outcome = Outcome::of(command, Duration::from_secs(60)).well();
    let rows: serde_json::Value = serde_json::from_str(&outcome.text).unwrap();
    let row = |row: &serde_json::Value| (row["step"].as_u64().unwrap(), row["value"].as_f64().unwrap());
    rows.as_array().unwrap().iter().map(row).collect()
}
