//! `dora stop` during annealing, then the same again: the weights of a run that was never stopped.

use std::time::{Duration, Instant};

use difflow_tests::Dataflow;

use crate::daemons::Daemons;
use crate::faults::same;
use crate::json;

const STEPS: u64 = 24;
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn a_dataflow_stopped_with_dora_stop_goes_on_to_the_same_weights() {
    let whole = Dataflow::tiny(STEPS);
    whole.run().well();
    // So slow that it does not come to the end of annealing before it is stopped, on any machine.
    let broken = Dataflow::tiny(STEPS).set("trainer", "SLOW_DOWN_SECONDS", 2);
    let dora = Daemons::up(broken.folder(), &[]);
    let file = broken.write().display().to_string();
    dora.run(&["start", &file, "--detach", "--name", "broken"], LIMIT).well();
    let checkpoints = broken.run_folder().join("checkpoints");
    let started = Instant::now();
    // Annealing ends at step 17.
    while !checkpoints.join("step-00000005").exists() {
        assert!(started.elapsed() < LIMIT, "no checkpoint of step 5");
        std::thread::sleep(Duration::from_millis(50));
    }
    dora.run(&["stop", "broken"], LIMIT).well();
    let steps: Vec<u64> = std::fs::read_dir(&checkpoints)
        .expect("checkpoints")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
        .collect();
    let last = steps.iter().max().copied().expect("a checkpoint");
    assert!((5..17).contains(&last), "{steps:?}: not stopped during annealing");
    let manifest = json(&checkpoints.join(format!("step-{last:08}/manifest.json")));
    assert_eq!((&manifest["step"], &manifest["next_seq"]), (&last.into(), &last.into()));
    let broken = broken.set("trainer", "SLOW_DOWN_SECONDS", 0);
    broken.write();
    dora.run(&["start", &file, "--attach"], LIMIT).well();
    same(&whole, &broken, STEPS);
}
