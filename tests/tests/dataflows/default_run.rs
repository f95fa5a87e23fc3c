//! The default run, a few steps of it: every node works, and the last screen holds the figures.

use difflow_tests::Dataflow;

use crate::{json, scores};

#[test]
fn the_default_run_ends_well_and_its_last_screen_holds_the_figures() {
    let dataflow = Dataflow::small(6);
    let outcome = dataflow.run().well().says(&[
        "validation NELBO",
        "before",
        "after",
        "base model (AR)",
        "gaps infilled exactly",
        "samples that pass the checker (n = 4)",
        "sample 1",
        "sample 3",
        "infilling",
        "given:",
        "trained 6 steps",
        "waiting for data",
        "report.html",
    ]);
    assert!(!outcome.text.contains("DEBUG") && !outcome.text.contains("zenoh"), "dora's chatter:\n{}", outcome.text);
    assert!(outcome.text.contains("step 6/6"), "no progress line:\n{}", outcome.text);
    // Not on a terminal: progress is lines like any others.
    assert!(!outcome.text.contains(['\u{1b}', '\r']), "control characters:\n{:?}", outcome.text);

    let run = dataflow.run_folder();
    // 0, every CHECKPOINT_EVERY, and the last.
    for step in [0, 4, 6] {
        let manifest = json(&run.join(format!("checkpoints/step-{step:08}/manifest.json")));
        assert_eq!(manifest["step"], step);
        assert!(run.join(format!("samples/step-{step:08}.json")).exists(), "no samples of step {step}");
    }
    let (before, after) = (scores(&run, 0), scores(&run, 6));
    assert!(before["ar_loss"] < after["nelbo"] && after["nelbo"] < before["nelbo"], "{before:?} {after:?}");
    let report = std::fs::read_to_string(run.join("report.html")).expect("a report");
    assert!(
        report.contains("<svg") && !report.contains("http://") && !report.contains("https://"),
        "not self-contained"
    );
    assert_eq!(json(&run.join("run.json"))["configuration"]["trainer.STEPS"], 6);
}
