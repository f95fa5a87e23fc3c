//! A run name that is taken: resumed when the configuration is the same, refused with the difference when not.

use std::time::{Duration, Instant};

use difflow_tests::{Dataflow, Outcome};

use crate::weights;

fn short() -> Dataflow {
    Dataflow::small(8).set("trainer", "CHECKPOINT_EVERY", 2).set("sampler", "SAMPLES_FINAL", 2)
}

#[test]
fn the_same_command_again_finds_everything_done() {
    let dataflow = short();
    dataflow.run().well();
    let before = weights(&dataflow.run_folder(), 8);
    dataflow.run().well().says(&["validation NELBO", "report.html"]);
    assert!(before == weights(&dataflow.run_folder(), 8));
}

#[test]
fn a_changed_configuration_is_refused_with_the_difference() {
    let dataflow = short();
    dataflow.run().well();
    let before = weights(&dataflow.run_folder(), 8);
    let dataflow = dataflow.set("trainer", "LEARNING_RATE", 0.5);
    dataflow.run().refused(78, &["trainer.LEARNING_RATE", "0.5", "choose another RUN"]);
    assert!(before == weights(&dataflow.run_folder(), 8), "a refused run changed what was there");
}

/// Ctrl-C leaves a checkpoint of the last finished step and ends with 0; going on gives the weights of a run without a break.
#[test]
fn a_run_stopped_and_resumed_ends_with_the_same_weights() {
    let whole = short();
    whole.run().well();
    let broken = short().set("trainer", "SLOW_DOWN_SECONDS", 1);
    let mut command = broken.command();
    let first = broken.run_folder().join("checkpoints/step-00000002");
    let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    let mut child = child.expect("difflow starts");
    let started = Instant::now();
    while !first.exists() {
        assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint of step 2");
        std::thread::sleep(Duration::from_millis(50));
    }
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(i32::try_from(child.id()).expect("a pid"), libc::SIGINT) };
    let status = child.wait().expect("difflow ends");
    assert_eq!(status.code(), Some(0), "a stopped run ends well");
    assert!(!broken.run_folder().join("checkpoints/step-00000008").exists(), "the run was not stopped");
    Outcome::of(broken.command(), Duration::from_secs(300)).well();
    assert!(weights(&whole.run_folder(), 8) == weights(&broken.run_folder(), 8), "the final weights differ");
}
