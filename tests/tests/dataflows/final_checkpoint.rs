//! dora's edges may lose a message, also the one about the last checkpoint: it is scored and sampled all the same.

use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, program};
use serde_json::{Value, json};

use crate::{json, scores};

/// A run whose evaluator and sampler never heard of its last checkpoint; then these two alone, fed by a node that says nothing.
#[test]
fn the_last_checkpoint_is_scored_although_nobody_told_of_it() {
    let dataflow = Dataflow::small(8);
    dataflow.run().well();
    let run = dataflow.run_folder();
    let files = ["scores", "samples"].map(|kind| run.join(kind).join("step-00000008.json"));
    let (before, untouched) = (scores(&run, 8), json(&run.join("scores/step-00000005.json")));
    files.iter().for_each(|file| std::fs::remove_file(file).expect("the file of the last checkpoint"));

    let mut value = json(&dataflow.write());
    let nodes = value["nodes"].as_array_mut().expect("nodes");
    nodes.retain(|node| ["sampler", "evaluator"].contains(&node["id"].as_str().unwrap_or_default()));
    for node in nodes.iter_mut() {
        node["inputs"] = json!({"published": "mute/published"});
    }
    nodes.push(json!({"id": "mute", "path": "/bin/true", "outputs": ["published"]}));
    let file = dataflow.folder().join("again.yml");
    std::fs::write(&file, Value::to_string(&value)).expect("a file");
    let mut command = Command::new(program("difflow"));
    command.arg("run").arg(&file).env("NO_COLOR", "1");
    Outcome::of(command, Duration::from_secs(300)).well();

    assert_eq!(scores(&run, 8), before, "the same checkpoint has the same scores");
    assert!(files[1].exists(), "no samples of the last checkpoint");
    assert_eq!(json(&run.join("scores/step-00000005.json")), untouched, "what is there is not done again");
}
