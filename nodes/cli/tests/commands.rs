//! The smaller commands: graph, doctor, schema, completions, help.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Output};

use common::{difflow, root};
use serde_json::Value;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_graph_is_mermaid_or_an_svg_file() {
    let output = difflow(&["graph", "dataflow.yml"]);
    assert!(
        text(&output).starts_with("flowchart LR\n") && text(&output).contains("noised (noised/2)"),
        "{}",
        text(&output)
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("graph.svg");
    assert!(difflow(&["graph", "dataflow.yml", "--svg", file.to_str().unwrap()]).status.success());
    let drawn = std::fs::read_to_string(file).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n"));
    let output = difflow(&["graph", "Cargo.toml"]);
    assert!(output.status.code() == Some(1) && !output.stderr.is_empty());
}

#[test]
fn the_doctor_looks_at_everything() {
    let output = difflow(&["doctor", "--json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    for what in ["rustc", "libtorch", "device", "dora", "nodes", "port 6013", "shared memory", "disk", "plug-ins"] {
        let check = checks.as_array().unwrap().iter().find(|check| check["what"] == what);
        assert!(
            check.is_some_and(|check| check["found"].as_str().is_some_and(|found| !found.is_empty())),
            "{what}: {checks:#}"
        );
    }
    let bad = checks.as_array().unwrap().iter().any(|check| check["state"] == "BAD");
    assert_eq!(output.status.code(), Some(i32::from(bad)));
}

/// On a machine without a GPU: the CPU passes its own test, and CUDA is said to be missing.
#[test]
fn the_doctor_tests_a_device() {
    let checks = |device: &str| -> (Option<i32>, Value) {
        let output = difflow(&["doctor", "--json", "--device", device]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = all.as_array().unwrap().iter().find(|check| check["what"] == "self-test").unwrap();
        (output.status.code(), found.clone())
    };
    let (_, cpu) = checks("cpu");
    assert!(
        cpu["state"] == "ok" && cpu["found"].as_str().unwrap().contains("comparisons with the CPU on cpu"),
        "{cpu}"
    );
    let (code, wrong) = checks("cuda:x");
    assert!(
        code == Some(1) && wrong["state"] == "BAD" && wrong["found"].as_str().unwrap().contains("cuda:N"),
        "{wrong}"
    );
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = difflow(&["completions", shell]);
        assert!(
            output.status.success() && text(&output).contains("validate") && text(&output).contains("deny-warnings"),
            "{shell}"
        );
    }
}

/// A schema that refuses a good file is worse than none; checked by another project's validator.
#[test]
fn the_editor_schema_takes_the_dataflow_files_and_refuses_a_misspelt_key() {
    let check = "\
import glob, json, jsonschema, re, yaml
schema = json.load(open('docs/dataflow.schema.json'))
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
class Loader(yaml.SafeLoader):
    pass
mistakes = [('STEPS: ', 'STEPS: x'), ('WARMUP_STEPS', 'WARMUP_STEP'), ('queue_size', 'queue_sizes'), ('outputs: [documents]', 'outputs: [document]')]
found = set()
files = ['dataflow.yml'] + sorted(glob.glob('data/experiments/*.yml') + glob.glob('nodes/*.module.yml'))
for path in files:
    # YAML 1.2, which editors read, takes 3e-3 for a number; PyYAML reads 1.1 and wants 3.0e-3.
    text = re.sub(r'(: )(\\d+)e-(\\d+)', r'\\1\\2.0e-\\3', open(path).read())
    errors = list(validator.iter_errors(yaml.load(text, Loader)))
    assert not errors, (path, errors[:3])
    for wrong in mistakes:
        if wrong[0] in text:
            found.add(wrong)
            assert list(validator.iter_errors(yaml.load(text.replace(*wrong), Loader))), (path, wrong)
assert len(files) > 5 and len(found) == len(mistakes), (files, found)
print('checked')
";
    let Some(python) = difflow_tests::python("the editor's schema by another project's validator") else { return };
    let output = Command::new(python).args(["-c", check]).current_dir(root()).output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{problem}");
    assert_eq!(text(&output), "checked\n");
}

/// Each command's help ends with commands that can be typed.
#[test]
fn every_help_has_examples() {
    let surface = include_str!("cli-surface.txt");
    let commands: Vec<&str> = surface.lines().filter(|line| line.starts_with("difflow ")).collect();
    assert!(commands.len() >= 18, "{commands:?}");
    for command in &commands {
        let group = commands.iter().any(|other| other.starts_with(&format!("{command} ")));
        let mut words: Vec<&str> = command.split(' ').skip(1).collect();
        words.push("--help");
        let help = text(&difflow(&words));
        assert!(group || help.contains("Examples:"), "{command} has no examples:\n{help}");
    }
}
