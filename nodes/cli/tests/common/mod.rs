//! Starting `difflow` in the root of the checkout.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs the command there, without colours.
pub fn difflow(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_difflow"));
    command.args(arguments).current_dir(root()).env("NO_COLOR", "1").output().unwrap()
}
