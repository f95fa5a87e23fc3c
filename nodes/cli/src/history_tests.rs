#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use difflow_schema::run::{FileRecord, MANIFEST, bytes_sha256};
use tempfile::TempDir;

use super::*;
use crate::dataflow::Tree;

/// The folder of a dataflow file, and its run `a` with checkpoints of these steps.
fn world(steps: &[u64]) -> (TempDir, RunDir) {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::new(folder.path().join("runs"), "a");
    steps.iter().for_each(|&step| checkpoint(&dir, step, "weights"));
    fs::write(dir.audit(), "{}\n").unwrap();
    (folder, dir)
}

fn checkpoint(dir: &RunDir, step: u64, content: &str) {
    let path = dir.checkpoint(step);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("model"), content).unwrap();
    let record = FileRecord { sha256: bytes_sha256(content.as_bytes()), bytes: content.len() as u64 };
    let manifest = Manifest::new(step, step, step, BTreeMap::from([("model".to_owned(), record)]));
    fs::write(path.join(MANIFEST), manifest.text()).unwrap();
}

fn prepared(folder: &TempDir, from: Option<u64>, fork: Option<&str>) -> Result<()> {
    let tree = Tree::read("env:\n  RUN: a\n", folder.path()).map_err(|finding| eyre!("{}", finding.found))?;
    prepare(&Experiment::of(&tree, &folder.path().join("x.yml"))?, from, fork)
}

#[test]
fn from_sets_later_checkpoints_aside_and_loses_none() {
    let (folder, dir) = world(&[0, 10, 20, 30]);
    prepared(&folder, Some(10), None).unwrap();
    assert_eq!(dir.checkpoint_steps().unwrap(), [0, 10]);
    assert_eq!(fs::read_dir(dir.checkpoints()).unwrap().count(), 4);
    // Trained again to the same end, and again back.
    checkpoint(&dir, 20, "weights");
    checkpoint(&dir, 30, "others");
    prepared(&folder, Some(10), None).unwrap();
    assert_eq!(fs::read_dir(dir.checkpoints()).unwrap().count(), 5);
}

#[test]
fn from_a_checkpoint_that_is_not_there_or_is_damaged_changes_nothing() {
    let (folder, dir) = world(&[0, 10, 20]);
    let text = prepared(&folder, Some(15), None).unwrap_err().to_string();
    assert!(text.contains("no checkpoint of step 15") && text.contains("0, 10, 20"), "{text}");
    fs::write(dir.checkpoint(10).join("model"), "Weights").unwrap();
    assert!(prepared(&folder, Some(10), None).unwrap_err().to_string().contains("damaged"));
    assert_eq!(dir.checkpoint_steps().unwrap(), [0, 10, 20]);
    let _held = lock::take(&dir.lock(), Duration::ZERO).unwrap();
    assert!(prepared(&folder, Some(20), None).unwrap_err().to_string().contains("being trained"));
}

#[test]
fn a_fork_begins_with_a_copy_and_the_same_command_goes_on() {
    let (folder, dir) = world(&[0, 10, 20]);
    fs::write(dir.checkpoint(20).join("model"), "Weights").unwrap();
    prepared(&folder, None, Some("b")).unwrap();
    let b = RunDir::new(folder.path().join("runs"), "b");
    assert_eq!(b.checkpoint_steps().unwrap(), [0, 10], "the last good one is that of step 10");
    assert!(b.audit().exists());
    checkpoint(&b, 15, "own");
    fs::remove_dir_all(b.checkpoint(10)).unwrap();
    prepared(&folder, None, Some("b")).unwrap();
    assert_eq!(b.checkpoint_steps().unwrap(), [0, 15], "what was pruned does not come back");
    assert!(prepared(&folder, Some(0), Some("b")).unwrap_err().to_string().contains("began with step 10 of run a"));
    // What the fork does to its files is its own affair.
    fs::remove_dir_all(b.checkpoint(0)).unwrap();
    Manifest::verify(&dir.checkpoint(0)).unwrap();
}

#[test]
fn a_fork_never_takes_a_name_that_is_taken_or_none() {
    let (folder, _) = world(&[0]);
    fs::create_dir_all(folder.path().join("runs/c")).unwrap();
    for name in ["a", "c", "../d", "", "7", "1e3"] {
        assert!(prepared(&folder, None, Some(name)).is_err(), "{name}");
    }
    assert!(!folder.path().join("d").exists());
}

/// Killed between two files of the copy, the next call makes it whole.
#[test]
fn a_fork_that_was_cut_off_is_finished() {
    let (folder, dir) = world(&[0, 10]);
    let b = RunDir::new(folder.path().join("runs"), "b");
    let fork = Fork { run: "a".into(), step: 10, checkpoint: good(&dir, 10).unwrap() };
    write_atomically(&b.fork(), &serde_json::to_vec(&fork).unwrap()).unwrap();
    fs::create_dir_all(b.checkpoint(10).with_extension("partial")).unwrap();
    prepared(&folder, None, Some("b")).unwrap();
    assert_eq!(b.checkpoint_steps().unwrap(), [0, 10]);
}
