//! Tests that a machine cannot run. They pass without having shown anything, so each says so, here and nowhere else; and in continuous
//! integration, where everything is there that can be, it is a failure unless tests/allowed-skips.txt gives the reason.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use crate::root;

/// What may be missing in continuous integration, one need a line: `need — reason`.
const ALLOWED: &str = include_str!("../allowed-skips.txt");

/// Says that `what` is not tested here for want of `need`, a fixed name such as `browser`; `why` tells how to get it.
/// scripts/test.sh collects these lines in the file that `DIFFLOW_SKIPPED` names, for nextest hides what a passed test prints.
///
/// # Panics
/// With `CI` set, unless `need` is in tests/allowed-skips.txt.
pub fn skip(need: &str, what: &str, why: &str) {
    let line = format!("SKIPPED {need}: {what}: {why}\n");
    eprint!("{line}");
    if let Some(path) = env::var_os("DIFFLOW_SKIPPED") {
        // One write, so that lines of tests that run side by side do not mix.
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    assert!(
        !in_ci() || allowed_skips().any(|(name, _)| name == need),
        "{line}CI is set and tests/allowed-skips.txt does not list `{need}`"
    );
}

/// Needs that may be missing in continuous integration, with the reasons.
pub fn allowed_skips() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = ALLOWED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(" — ").unwrap_or((line, "")))
}

fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| !["", "0", "false"].contains(&value.as_str()))
}

/// Returns the folder with real data; `None` after saying that `what` is skipped.
pub fn real_data(what: &str) -> Option<PathBuf> {
    let folder = env::var_os("DIFFLOW_DATA_DIR").map(PathBuf::from);
    if folder.is_none() {
        skip("real-data", what, "DIFFLOW_DATA_DIR is not set (a folder with models/, text/ and tokenizers/)");
    }
    folder
}

/// Returns the Python that scripts/test-tools.sh makes, with TensorBoard, jsonschema, OpenAI's client, PyYAML, hadolint, dora and moto; `None` after saying that `what` is skipped.
pub fn python(what: &str) -> Option<PathBuf> {
    let folder = root().join(".difflow/test-venv");
    let made = folder.join("ready").exists();
    if !made {
        skip("test-venv", what, "no .difflow/test-venv; scripts/test-tools.sh makes it");
    }
    made.then(|| folder.join("bin/python3"))
}
