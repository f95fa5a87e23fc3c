//! The checker's own tests on the C example under valgrind: an error of the host or of the example at the boundary would be a crash
//! somewhere else, much later.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

const DIFFLOW: &str = env!("CARGO_BIN_EXE_difflow");

#[test]
fn the_c_example_passes_every_test_under_valgrind_without_error_or_leak() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        difflow_tests::skip("valgrind", "the C example under valgrind", "apt-get install valgrind");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/quadratic-noise-c");
    let library = dir.path().join("quadratic_noise.so");
    let made = Command::new("make").arg("-C").arg(&example).arg(format!("OUT={}", library.display())).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Everything but the million numbers and the threads, which take long and show nothing more.
    let tests =
        ["metadata", "schema", "defaults", "bad-config", "lifecycle", "alpha", "alpha-0", "derivative", "weight"];
    let output = Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect"])
        .args([DIFFLOW, "plugin", "run-test"])
        .arg(&library)
        .arg("org.difflow.examples.quadratic-noise")
        .args(tests)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
}
