//! The files of data/experiments: short, and the graph of dataflow.yml.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;

use common::{difflow, root};
use serde_json::Value;

/// Lines of an experiment file at most: it says what differs, and why.
const LINES: usize = 25;
/// Columns of prose.
const COLUMNS: usize = 160;

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The experiment files, relative to the checkout.
fn experiments() -> Vec<String> {
    let entries = fs::read_dir(root().join("data/experiments")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> =
        names.filter(|name| name.ends_with(".yml")).map(|name| format!("data/experiments/{name}")).collect();
    files.sort();
    assert!(files.len() >= 8, "{files:?}");
    files
}

fn expanded(file: &str, set: &[&str]) -> Value {
    let output = difflow(&[&["expand", file], set].concat());
    assert!(output.status.success(), "{file}: {}", said(&output));
    serde_saphyr::from_slice(&output.stdout).unwrap()
}

/// Program and inputs of every node, and its outputs.
fn wiring(dataflow: &Value) -> BTreeMap<String, String> {
    let node = |node: &Value| {
        let program = node["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let inputs = node["inputs"].as_object().into_iter().flatten();
        let source = |input: &Value| input.get("source").unwrap_or(input).clone();
        let inputs: Vec<String> = inputs.map(|(name, input)| format!("{name}: {}", source(input))).collect();
        (node["id"].as_str().unwrap().to_owned(), format!("{program} {inputs:?} → {}", node["outputs"]))
    };
    dataflow["nodes"].as_array().unwrap().iter().map(node).collect()
}

#[test]
fn an_experiment_file_has_at_most_25_lines() {
    for file in experiments() {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        let (lines, columns) = (text.lines().count(), text.lines().map(|line| line.chars().count()).max().unwrap());
        assert!(lines <= LINES && columns <= COLUMNS, "{file}: {lines} lines of {columns} columns");
    }
}

/// The graph stands in dataflow.yml for people and in the modules for experiments.
#[test]
fn the_modules_wire_what_dataflow_yml_wires() {
    let wanted = wiring(&expanded("dataflow.yml", &[]));
    assert_eq!(wanted.len(), 8);
    let mut whole = 0;
    for file in experiments() {
        let found = wiring(&expanded(&file, &[]));
        whole += usize::from(found == wanted);
        for (id, node) in found {
            // The monitor hears of those nodes that there are; what serves a run stands beside it.
            assert!(
                ["monitor", "server"].contains(&id.as_str()) || wanted[&id] == node,
                "{file}: {id}: {node}, not {}",
                wanted[&id]
            );
        }
    }
    assert!(whole >= 6, "only {whole} experiments use all nodes");
}

#[test]
fn every_experiment_is_valid_and_a_finding_names_the_file_it_is_in() {
    for file in experiments() {
        let output = difflow(&["validate", &file, "--no-environment", "--deny-warnings"]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let output = difflow(&["validate", "nodes/adapt.module.yml"]);
    assert!(
        output.status.code() == Some(78) && said(&output).contains("judged with the dataflow"),
        "{}",
        said(&output)
    );
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapt", "train"] {
        let name = format!("{name}.module.yml");
        let text = fs::read_to_string(root().join("nodes").join(&name)).unwrap();
        fs::write(folder.path().join(name), text.replace("source: trainer/demand", "source: trainr/demand")).unwrap();
    }
    let file = folder.path().join("mine.yml");
    let text = "exit_when_nodes_finish: true\nnodes: [{ id: a, module: adapt.module.yml }]\nenv:\n  STPES: 3\n";
    fs::write(&file, text).unwrap();
    let output = difflow(&["validate", file.to_str().unwrap(), "--no-environment"]);
    assert_eq!(output.status.code(), Some(78));
    let text = said(&output);
    let module = fs::read_to_string(folder.path().join("train.module.yml")).unwrap();
    let line = 1 + module.lines().position(|line| line.contains("trainr/demand")).unwrap();
    assert!(text.contains(&format!("train.module.yml:{line}:")) && text.contains("did you mean trainer?"), "{text}");
    assert!(text.contains("mine.yml:4:3:") && text.contains("did you mean STEPS?"), "{text}");
}

#[test]
fn keys_of_the_command_line_are_in_what_runs_and_unknown_ones_are_refused() {
    let file = "data/experiments/tiny-long.yml";
    let dataflow = expanded(file, &["--set", "STEPS=12", "--set", "sampler.DEVICE=cpu"]);
    let node = |id: &str| dataflow["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id).unwrap().clone();
    assert_eq!((&dataflow["env"]["STEPS"], &node("sampler")["env"]["DEVICE"]), (&"12".into(), &"cpu".into()));
    assert_eq!(node("trainer").get("env"), None);
    for command in ["run", "expand"] {
        let output = difflow(&[command, file, "--set", "STPES=12", "--set", "samplr.DEVICE=cpu"]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        for part in ["--set STPES: an unknown key; did you mean STEPS?", "did you mean sampler?"] {
            assert!(said(&output).contains(part), "{}", said(&output));
        }
    }
}

#[test]
fn a_picture_of_an_experiment_shows_the_nodes_of_its_module() {
    let output = difflow(&["graph", "data/experiments/pretrain-tiny.yml"]);
    let text = said(&output);
    assert!(
        output.status.success() && text.contains("difflow-noiser") && !text.contains("difflow-evaluator"),
        "{text}"
    );
}
