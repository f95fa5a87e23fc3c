//! A run that trains an adapter, and what is done with it afterwards.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, program};
use serde_json::Value;

use crate::{json, scores};

/// What `difflow score` says of a model, left to right or as a bound.
fn score(dataflow: &Dataflow, model: &Path, mode: &str, more: &[&str]) -> f64 {
    let mut command = Command::new(program("difflow"));
    command.args(["score", "--model"]).arg(model).args(["--mode", mode, "--json", "--device", "cpu", "--parquet"]);
    let [documents, tokenizer] = ["heldout.parquet", "tokenizer.json"].map(|name| dataflow.folder().join(name));
    let output = command.arg(documents).arg("--tokenizer").arg(tokenizer).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    found["nats_per_token"].as_f64().unwrap()
}

/// Scored and sampled while it trains; then read by name, with its base model, and merged into it: the same model each time.
#[test]
fn an_adapter_is_scored_merged_and_read_with_its_base_model() {
    let dataflow = Dataflow::tiny(6).set("trainer", "LORA_RANK", 4).set("trainer", "LEARNING_RATE", 0.05);
    dataflow.run().well();
    let run = dataflow.run_folder();
    let checkpoint = run.join("checkpoints/step-00000006");
    assert!(checkpoint.join("adapter_model.safetensors").exists() && !checkpoint.join("model.safetensors").exists());
    assert!(json(&checkpoint.join("manifest.json"))["files"]["adapter_config.json"]["sha256"].is_string());
    let (before, after) = (scores(&run, 0)["nelbo"], scores(&run, 6)["nelbo"]);
    assert!(before - after > 0.01, "{before} {after}");

    let named = |mode| score(&dataflow, &checkpoint, mode, &[]);
    let base = dataflow.folder().join("model");
    let merged = dataflow.folder().join("merged");
    let merge = || {
        let mut command = Command::new(program("difflow"));
        command.arg("merge").arg("--checkpoint").arg(&checkpoint).arg("--out").arg(&merged);
        Outcome::of(command, Duration::from_secs(60))
    };
    merge().well();
    for mode in ["ar", "nelbo"] {
        assert_eq!(named(mode), score(&dataflow, &base, mode, &["--adapter", checkpoint.to_str().unwrap()]));
        let whole = score(&dataflow, &merged, mode, &[]);
        assert!((named(mode) - whole).abs() < 1e-5, "{mode}: {} {whole}", named(mode));
    }
    assert!((score(&dataflow, &base, "ar", &[]) - named("ar")).abs() > 1e-3, "the adapter does nothing");
    // A folder that is there is not written into.
    merge().refused(1, &["--out", "must be new"]);
}
