//! The Dockerfile, as hadolint reads it: nothing else here can tell whether it would build.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use difflow_tests::{python, root};

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let Some(python) = python("the Dockerfile") else { return };
    let hadolint = python.with_file_name("hadolint");
    let output = Command::new(&hadolint).arg(root().join("Dockerfile")).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}; scripts/test-tools.sh installs it", hadolint.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
