//! dora's edges may lose a message, also the one about the last checkpoint: it is scored and sampled all the same.

use difflow_tests::Dataflow;

use crate::{json, scores};

/// The run is over, but its last checkpoint has neither scores nor samples, and the edge to sampler and evaluator says nothing: a
/// trainer that is done shows no batch.
#[test]
fn the_last_checkpoint_is_scored_although_nobody_told_of_it() {
    let dataflow = Dataflow::small(8);
    dataflow.run().well();
    let run = dataflow.run_folder();
    let files = ["scores", "samples"].map(|kind| run.join(kind).join("step-00000008.json"));
    let (before, untouched) = (scores(&run, 8), json(&run.join("scores/step-00000005.json")));
    files.iter().for_each(|file| std::fs::remove_file(file).expect("the file of the last checkpoint"));

    let mute = |dataflow: Dataflow, id: &str| dataflow.input(id, "published", "source", "trainer/preview");
    let dataflow = ["sampler", "evaluator"].into_iter().fold(dataflow, mute);
    dataflow.run().well();

    assert_eq!(scores(&run, 8), before, "the same checkpoint has the same scores");
    assert!(files[1].exists(), "no samples of the last checkpoint");
    assert_eq!(json(&run.join("scores/step-00000005.json")), untouched, "what is there is not done again");
}
