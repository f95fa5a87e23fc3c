//! Real input: stories260K and TinyStories from DIFFLOW_DATA_DIR, the experiment of data/experiments/tinystories.yml shortened.

use difflow_tests::{Dataflow, real_data};

use crate::scores;

#[test]
fn tinystories_lower_the_bound_within_a_few_steps() {
    if real_data("the shortened experiment on TinyStories").is_none() {
        return;
    }
    let dataflow = Dataflow::open("data/experiments/tinystories.yml").set("", "STEPS", 40);
    let dataflow = dataflow.set("trainer", "ANNEAL_STEPS", 10).set("trainer", "CHECKPOINT_EVERY", 40);
    let dataflow = dataflow.set("trainer", "WARMUP_STEPS", 10).set("evaluator", "EVAL_DOCUMENTS", 16);
    dataflow.run().well().says(&["validation NELBO"]);
    let run = dataflow.run_folder();
    let (before, after) = (scores(&run, 0), scores(&run, 40));
    // The base model's own loss is the check that model and tokenizer were read right: 1.32 on the whole validation set.
    assert!((1.0..1.7).contains(&before["ar_loss"]), "{before:?}");
    assert!(after["nelbo"] < before["nelbo"] - 0.5, "{before:?} {after:?}");
}
