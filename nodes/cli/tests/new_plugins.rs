//! `difflow plugin new`: what it writes builds with the command in its README, outside the repository, and passes the check.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

const DIFFLOW: &str = env!("CARGO_BIN_EXE_difflow");

fn run(program: &str, arguments: &[&str], dir: &Path) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    // The registry's copies of the SDK's dependencies are there, since this very build used them.
    command.env("CARGO_NET_OFFLINE", "true");
    let output = command.output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// Makes, builds and checks a plug-in as its README says; `shared` keeps what cargo compiled for the next one.
fn made(kind: &str, language: &str, shared: Option<&Path>) {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("my-{kind}");
    run(DIFFLOW, &["plugin", "new", &name, "--kind", kind, "--lang", language], dir.path());
    let project = dir.path().join(&name);
    let readme = std::fs::read_to_string(project.join("README.md")).unwrap();
    let command = |start: &str| {
        let line = readme.lines().map(str::trim).find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no line `{start}` in\n{readme}")).to_owned()
    };
    if let Some(shared) = shared {
        // The place where the README's command puts its results, kept between projects.
        std::os::unix::fs::symlink(shared, project.join("target")).unwrap();
    }
    let build = command(if language == "rust" { "cargo build" } else { "make" });
    run("sh", &["-c", &build], &project);
    let check = command("difflow plugin check");
    run("sh", &["-c", &check.replacen("difflow", DIFFLOW, 1)], &project);
    assert!(!readme.contains("{{"), "{readme}");
}

#[test]
fn every_kind_in_c_builds_and_passes() {
    for kind in ["noise-schedule", "annealing-schedule", "model-recipe"] {
        made(kind, "c", None);
    }
}

#[test]
fn every_kind_in_rust_builds_and_passes() {
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-plugins");
    std::fs::create_dir_all(&shared).unwrap();
    for kind in ["noise-schedule", "annealing-schedule", "batch-transform", "model-recipe"] {
        made(kind, "rust", Some(&shared));
    }
}

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
    refused(&["t", "--kind", "noise-schedule", "--sdk", "nowhere"], "the SDK is not in nowhere");
    std::fs::create_dir(dir.path().join("taken")).unwrap();
    refused(&["taken", "--kind", "noise-schedule"], "already there");
    assert_eq!(std::fs::read_dir(dir.path().join("taken")).unwrap().count(), 0);
}
