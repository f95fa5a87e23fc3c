//! The clock on the wall jumps by a day, forth and back, under dora and every node (clock.c).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, root};

use crate::faults::same;

const STEPS: u64 = 60;
const NODES: [&str; 8] =
    ["corpus", "tokenizer", "noiser", "trainer", "evaluator", "checkpointer", "sampler", "monitor"];

#[test]
fn a_clock_that_jumps_by_a_day_changes_nothing() {
    let whole = Dataflow::tiny(STEPS);
    whole.run().well();
    let mut jumping = Dataflow::tiny(STEPS).set("trainer", "SLOW_DOWN_SECONDS", 0.15);
    let (library, witnesses) = (jumping.folder().join("clock.so"), jumping.folder().join("witnesses"));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-std=gnu11", "-o"])
        .args([&library, &root().join("tests/tests/dataflows/clock.c")])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    // dora hands no LD_PRELOAD to its nodes, so each starts behind a script that sets it.
    for id in NODES {
        let script = jumping.folder().join(id);
        let node = jumping.node(id);
        let program = node["path"].as_str().unwrap();
        let text = format!("#!/bin/sh\nLD_PRELOAD='{}' exec '{program}' \"$@\"\n", library.display());
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        node["path"] = script.display().to_string().into();
    }
    let mut command = jumping.command();
    command.env("LD_PRELOAD", &library).env("CLOCK_WITNESSES", &witnesses);
    Outcome::of(command, Duration::from_secs(300)).well();
    same(&whole, &jumping, STEPS);
    let told = std::fs::read_to_string(&witnesses).unwrap();
    // The dora command is a Python script around a library. (`difflow` asks for the time once, which may be a right one.)
    let nodes = NODES.map(|id| format!("difflow-{id}"));
    for program in nodes.iter().map(String::as_str).chain(["python3"]) {
        assert!(told.lines().any(|line| line == program), "{program} was never told a wrong time:\n{told}");
    }
}
