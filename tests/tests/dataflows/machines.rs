//! Two ranks on two machines of a dora cluster, with a network between them where the system lets a test make one.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use difflow_tests::{Dataflow, Outcome, family, program};

use crate::daemons::{Daemons, free_port};
use crate::ranks::{LIMIT, same, small};

/// The file that `difflow expand` writes for the two machines; the ranks meet on the first.
fn expanded(dataflow: &Dataflow, dora: &Daemons) -> String {
    let meeting = format!("RENDEZVOUS={}:{}", dora.address(0), free_port());
    let file = dataflow.write().display().to_string();
    let mut command = std::process::Command::new(program("difflow"));
    command.args(["expand", &file, "--ranks", "2", "--machines", "A,B", "--set", &meeting]);
    let outcome = Outcome::of(command, LIMIT).well();
    let path = dataflow.folder().join("two.yml");
    fs::write(&path, outcome.text).unwrap();
    path.display().to_string()
}

/// What a process and all that it started are called.
fn names(child: &Child) -> Vec<String> {
    family(child.id()).into_iter().map(|process| process.name).collect()
}

/// A machine that is lost ends the run on the other one, which dora does not do; and the same file goes on.
#[test]
fn two_machines_end_in_the_bytes_of_one_process_though_one_was_lost_on_the_way() {
    let alone = small();
    alone.run_within(LIMIT).well();
    let dataflow = small().set("trainer", "SLOW_DOWN_SECONDS", 1).set("trainer", "GROUP_TIMEOUT", 10);
    let mut dora = Daemons::apart(dataflow.folder(), ["A", "B"]);
    let file = expanded(&dataflow, &dora);
    let mut start = dora.command("dora", &["start", &file, "--attach"]);
    let mut attached = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (began, checkpoint) = (Instant::now(), dataflow.run_folder().join("checkpoints/step-00000002"));
    while !checkpoint.exists() {
        assert!(attached.try_wait().unwrap().is_none() && began.elapsed() < LIMIT, "no checkpoint of step 2");
        std::thread::sleep(Duration::from_millis(50));
    }
    dora.kill(1);
    let killed = Instant::now();
    while names(dora.daemon_of(0)).iter().any(|name| name == "difflow-trainer") {
        assert!(killed.elapsed() < Duration::from_secs(60), "rank 0 goes on without the other machine");
        std::thread::sleep(Duration::from_millis(50));
    }
    _ = attached.kill();
    _ = attached.wait();
    drop(dora);

    let dataflow = dataflow.set("trainer", "SLOW_DOWN_SECONDS", 0);
    let dora = Daemons::apart(dataflow.folder(), ["A", "B"]);
    let file = expanded(&dataflow, &dora);
    dora.run(&["start", &file, "--attach"], LIMIT).well();
    same(&alone, &dataflow, "two machines");
}
