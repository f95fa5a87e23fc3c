//! `difflow plugin new`: what it refuses. That what it writes builds and drives a run is tests/tests/dataflows/new_plugins.rs.

#![allow(clippy::unwrap_used)]

use std::process::Command;

const DIFFLOW: &str = env!("CARGO_BIN_EXE_difflow");

#[test]
fn what_cannot_be_made_is_refused_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], part: &str| {
        let output =
            Command::new(DIFFLOW).args(["plugin", "new"]).args(arguments).current_dir(dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{arguments:?}: {said}");
    };
    refused(&["Bad_Name", "--kind", "noise-schedule"], "allowed: lower-case letters");
    refused(&["../up", "--kind", "noise-schedule"], "allowed: lower-case letters");
    refused(&["t", "--kind", "batch-transform", "--lang", "c"], "not offered in C");
    refused(&["t", "--kind", "torch-model", "--lang", "c"], "not offered in C");
    refused(&["t", "--kind", "noise-schedule", "--sdk", "nowhere"], "the SDK is not in nowhere");
    std::fs::create_dir(dir.path().join("taken")).unwrap();
    refused(&["taken", "--kind", "noise-schedule"], "already there");
    assert_eq!(std::fs::read_dir(dir.path().join("taken")).unwrap().count(), 0);
}
