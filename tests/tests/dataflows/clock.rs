//! The clock on the wall jumps by a day, forth and back, under dora and every node (clock.c).

use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, root};

use crate::faults::same;

const STEPS: u64 = 60;

#[test]
fn a_clock_that_jumps_by_a_day_changes_nothing() {
    let (whole, jumping) = (Dataflow::tiny(STEPS), Dataflow::tiny(STEPS).set("trainer", "SLOW_DOWN_SECONDS", 0.15));
    whole.run().well();
    let (library, witnesses) = (jumping.folder().join("clock.so"), jumping.folder().join("witnesses"));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-std=gnu11", "-o"])
        .args([&library, &root().join("tests/tests/dataflows/clock.c")])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let mut command = jumping.command();
    command.env("LD_PRELOAD", &library).env("CLOCK_WITNESSES", &witnesses);
    Outcome::of(command, Duration::from_secs(300)).well();
    same(&whole, &jumping, STEPS);
    let told = std::fs::read_to_string(&witnesses).unwrap();
    for program in ["dora", "difflow-trainer", "difflow-monitor"] {
        assert!(told.lines().any(|line| line == program), "{program} was never told a wrong time:\n{told}");
    }
}
