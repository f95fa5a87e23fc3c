//! `difflow init`: what it makes can be run, what is in the way is left alone. That an installation can do the same is scripts/test-wheel.sh.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use difflow_tests::root;
use serde_json::Value;

const DIFFLOW: &str = env!("CARGO_BIN_EXE_difflow");

fn difflow(words: &[&str], dir: &Path) -> Output {
    Command::new(DIFFLOW).args(words).current_dir(dir).env("NO_COLOR", "1").output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What `difflow validate` finds in a file.
fn findings(file: &str, dir: &Path) -> Vec<Value> {
    let output = difflow(&["validate", file, "--json"], dir);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)))
}

/// Nodes as dora is told of them, programs by their real path.
fn programs(file: &str, dir: &Path) -> Vec<String> {
    let output = difflow(&["expand", file], dir);
    assert!(output.status.success(), "{}", said(&output));
    let dataflow: Value = serde_saphyr::from_slice(&output.stdout).unwrap();
    let folder = dir.join(file).parent().unwrap().to_owned();
    let nodes = dataflow["nodes"].as_array().unwrap().iter();
    nodes.map(|node| folder.join(node["path"].as_str().unwrap()).display().to_string()).collect()
}

#[test]
fn what_is_made_has_nothing_wrong_and_all_that_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let made = difflow(&["init", "demo"], dir.path());
    assert!(made.status.success(), "{}", said(&made));
    for part in ["cd demo", "difflow run\n", "docs/TUTORIAL.md"] {
        assert!(said(&made).contains(part), "{part} not in {}", said(&made));
    }
    let demo = dir.path().join("demo");
    assert_eq!(findings("dataflow.yml", &demo), Vec::<Value>::new());
    let programs = programs("dataflow.yml", &demo);
    assert_eq!(programs.len(), 8);
    for program in programs {
        assert!(Path::new(&program).is_file(), "{program}");
    }
    let same = |path: &str| fs::read(demo.join(path)).unwrap() == fs::read(root().join(path)).unwrap();
    for path in ["dataflow.yml", "nodes/adapt.module.yml", "data/tiny/train.parquet", "data/tiny/model/config.json"] {
        assert!(same(path), "{path}");
    }
}

/// A new folder in an existing one that is empty, `.` among them.
#[test]
fn an_empty_folder_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let made = difflow(&["init", "."], dir.path());
    assert!(made.status.success() && dir.path().join("dataflow.yml").is_file(), "{}", said(&made));
}

#[test]
fn every_experiment_comes_along_with_its_findings_and_no_others() {
    let experiments = fs::read_dir(root().join("data/experiments")).unwrap().map(|entry| entry.unwrap().path());
    let experiments: Vec<_> =
        experiments.filter(|path| path.extension().is_some_and(|ending| ending == "yml")).collect();
    assert!(experiments.len() >= 8, "{experiments:?}");
    for path in experiments {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let made = difflow(&["init", "demo", "--experiment", name], dir.path());
        let file = format!("data/experiments/{name}.yml");
        assert!(made.status.success() && said(&made).contains(&format!("difflow run {file}")), "{}", said(&made));
        let demo = dir.path().join("demo");
        let kinds = |dir: &Path| -> Vec<String> {
            findings(&file, dir).iter().map(|finding| format!("{} {}", finding["kind"], finding["line"])).collect()
        };
        assert_eq!(kinds(&demo), kinds(&root()), "{name}");
        for program in programs(&file, &demo) {
            assert!(Path::new(&program).is_file(), "{name}: {program}");
        }
    }
}

#[test]
fn what_is_in_the_way_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/notes.txt"), "mine").unwrap();
    fs::write(dir.path().join("file"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
    for (name, found) in [("mine", "a folder with `notes.txt` in it"), ("file", "a file"), ("link", "a file")] {
        let refused = difflow(&["init", name], dir.path());
        assert_eq!(refused.status.code(), Some(78), "{name}: {}", said(&refused));
        assert!(said(&refused).contains(&format!("{name}: found {found}; allowed:")), "{name}: {}", said(&refused));
    }
    assert_eq!(fs::read_dir(dir.path().join("mine")).unwrap().count(), 1);
    assert!(!dir.path().join("nowhere").exists());

    let unknown = difflow(&["init", "demo", "--experiment", "tiny-lung"], dir.path());
    assert_eq!(unknown.status.code(), Some(2), "{}", said(&unknown));
    assert!(said(&unknown).contains("found `tiny-lung`; allowed: ablation-tiny, "), "{}", said(&unknown));
    assert!(!dir.path().join("demo").exists());
}

/// How the programs of an installation start: each is a line of a shell with this command behind it.
#[test]
fn every_node_is_in_the_command() {
    let node = |words: &[&str]| difflow(&[&["node"], words].concat(), &root());
    for (program, key) in [
        ("corpus", "SOURCES"),
        ("tokenizer", "PACKING"),
        ("noiser", "MIN_T"),
        ("trainer", "LEARNING_RATE"),
        ("checkpointer", "KEEP_LAST"),
        ("sampler", "DECODER"),
        ("evaluator", "HELDOUT"),
        ("monitor", "PROGRESS_SECONDS"),
        ("server", "ANSWER_SECONDS"),
    ] {
        let program = format!("difflow-{program}");
        let help = node(&[&program, "--help"]);
        assert!(help.status.success() && said(&help).contains(&format!("Usage: {program}")), "{}", said(&help));
        assert!(said(&help).contains(&format!("\n  {key}")), "{program} --help has no {key}");
        assert!(said(&node(&[&program, "--schema"])).contains(&format!("\"{key}\"")), "{program} --schema");
        let alone = node(&[&program]);
        assert_eq!(alone.status.code(), Some(2), "{}", said(&alone));
        assert!(said(&alone).contains(&format!("{program} is a node of a dataflow")), "{}", said(&alone));
    }
    let unknown = node(&["difflow-moniter"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said(&unknown).contains("allowed: difflow-corpus, "), "{}", said(&unknown));
}
