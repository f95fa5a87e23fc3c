//! The same seed gives the same bytes, whatever is in flight and however long a step takes.

use difflow_tests::Dataflow;

use crate::{json, weights};

/// Nothing is written or scored while training, which is all that this looks at.
fn training_only(steps: u64) -> Dataflow {
    let quiet = Dataflow::small(steps).set("sampler", "SAMPLES", 0).set("sampler", "SAMPLES_FINAL", 0);
    quiet.set("sampler", "INFILL", "").set("evaluator", "INFILL", "").set("evaluator", "EVAL_DOCUMENTS", 1)
}

#[test]
fn prefetch_queue_sizes_and_batches_of_documents_do_not_change_the_weights() {
    let one = training_only(8);
    one.run().well();
    let other = training_only(8).set("trainer", "PREFETCH", 1).set("corpus", "DOCUMENTS_PER_BATCH", 37);
    let mut other = other.set("trainer", "PATIENCE_SECONDS", 0.05);
    for (node, input) in [("trainer", "noised"), ("noiser", "sequences"), ("tokenizer", "documents")] {
        other = other.input(node, input, "queue_size", 3);
    }
    other.run().well();
    assert!(weights(&one.run_folder(), 8) == weights(&other.run_folder(), 8), "the final weights differ");

    let seed = training_only(8).set("", "SEED", 2);
    seed.run().well();
    assert!(weights(&one.run_folder(), 8) != weights(&seed.run_folder(), 8), "SEED has no effect");
}

/// A slow trainer makes its upstream wait: nothing is dropped, asked for twice or trained on twice.
#[test]
fn a_slow_trainer_loses_no_batch() {
    let fast = training_only(6);
    fast.run().well();
    let slow = training_only(6).set("trainer", "SLOW_DOWN_SECONDS", 3);
    slow.run().well();
    assert!(weights(&fast.run_folder(), 6) == weights(&slow.run_folder(), 6), "the final weights differ");
    let manifest = json(&slow.run_folder().join("checkpoints/step-00000006/manifest.json"));
    assert_eq!(manifest["next_seq"], 6);
}
