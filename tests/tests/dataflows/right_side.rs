//! method.md's first trap: a model that silently stays causal. It trains, scores and writes, and everything looks right but the numbers. So
//! two runs are made that differ in a word at the right end only, over a model that gives both words one logit (tests/src/tiny_run.rs): what
//! a forward says on the left can differ only if it reads to the right.

use difflow_tests::Dataflow;

use crate::{json, metric, scores};

const STEPS: u64 = 6;
/// Attention opens at this step, all at once.
const OPEN: u64 = 4;
/// What rounding may make of the same logits, and the least that another word in view makes of them.
const SAME: f64 = 1e-5;
const OTHER: f64 = 1e-4;

/// The probabilities of the tokens that were written into the gap, at a checkpoint.
fn filling(dataflow: &Dataflow, step: u64) -> Vec<f64> {
    let file = json(&dataflow.run_folder().join(format!("samples/step-{step:08}.json")));
    let samples = file["samples"].as_array().unwrap();
    let infill = samples.iter().find(|sample| sample["kind"] == "infill").unwrap();
    let history = infill["history"].as_array().unwrap();
    history.iter().filter_map(|token| token["probability"].as_f64()).collect()
}

#[test]
fn a_word_on_the_right_changes_the_logits_on_the_left_in_training_scoring_and_writing() {
    let run = |word: &str| {
        let dataflow = Dataflow::ending_in(STEPS, word)
            .set("trainer", "ANNEALING_SCHEDULE", "step")
            .set("trainer", "ANNEALING_SCHEDULE_CONFIG", r#"{"stages": 1}"#)
            .set("trainer", "ANNEAL_STEPS", OPEN);
        dataflow.run().well();
        dataflow
    };
    let (one, other) = (run("w3"), run("w4"));

    // The forward of training: causal before attention opens, both sides from then on.
    let (ratios, loss, other_loss) = (metric(&one, "attn_mask_ratio"), metric(&one, "loss"), metric(&other, "loss"));
    for (name, of) in [("loss", &loss), ("loss", &other_loss), ("attn_mask_ratio", &ratios)] {
        assert_eq!(of.keys().copied().collect::<Vec<_>>(), (1..=STEPS).collect::<Vec<_>>(), "{name}: a step was lost");
    }
    for (step, loss) in loss {
        let (ratio, gap) = (ratios[&step], (loss - other_loss[&step]).abs());
        if step < OPEN {
            assert!(ratio == 0.0 && gap < SAME, "step {step}, ratio {ratio}: the loss differs by {gap}");
        } else {
            assert!(ratio == 1.0 && gap > OTHER, "step {step}, ratio {ratio}: the loss differs by {gap} only");
        }
    }

    // The evaluator's: the bound reads both sides, the AR loss beside it the left one.
    let gap =
        |step, name: &str| (scores(&one.run_folder(), step)[name] - scores(&other.run_folder(), step)[name]).abs();
    assert!(gap(0, "ar_loss") < SAME, "the AR loss reads to the right: {}", gap(0, "ar_loss"));
    for step in [0, STEPS] {
        assert!(gap(step, "nelbo") > OTHER, "step {step}: the bound differs by {} only", gap(step, "nelbo"));
    }

    // The sampler's: how probable the same gap's tokens are.
    for step in [0, STEPS] {
        let (filled, other) = (filling(&one, step), filling(&other, step));
        assert_eq!((filled.len(), other.len()), (2, 2));
        let gap = filled.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(gap > OTHER, "step {step}: {filled:?} and {other:?}");
    }
}
