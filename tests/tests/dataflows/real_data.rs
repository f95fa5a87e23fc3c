//! Real input: stories260K and TinyStories from DIFFLOW_DATA_DIR, the experiment of data/experiments/tinystories.yml shortened.

use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, program, real_data};

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

/// From GSM8K's lines to an accuracy, whatever it is: the recipe for an adapter, on a small model, and the task that asks as it was trained.
#[test]
fn gsm8k_goes_from_its_file_to_an_accuracy() {
    let Some(data) = real_data("the shortened recipe for GSM8K") else { return };
    let model = data.join("models/stories260K").display().to_string();
    let keys = [("BASE_MODEL", model.as_str()), ("MASK_TOKEN", "added"), ("DEVICE", "cpu"), ("PRECISION", "fp32")];
    let numbers =
        [("SEQUENCE_LENGTH", 512), ("MICRO_BATCH", 2), ("ACCUMULATION", 1), ("STEPS", 4), ("WARMUP_STEPS", 2)];
    let mut dataflow = Dataflow::open("data/experiments/gsm8k-diffullama-lora.yml");
    for (key, value) in keys {
        dataflow = dataflow.set("", key, value);
    }
    for (key, value) in numbers {
        dataflow = dataflow.set("", key, value);
    }
    dataflow = dataflow.set("trainer", "CHECKPOINT_EVERY", 4).set("trainer", "ACTIVATION_CHECKPOINTING", false);
    dataflow = dataflow.set("evaluator", "EVAL_DOCUMENTS", 4).set("sampler", "SAMPLES", 1);
    dataflow = dataflow.set("sampler", "SAMPLES_FINAL", 1).set("sampler", "DIFFUSION_STEPS", 4);
    dataflow.run().well();
    assert!(scores(&dataflow.run_folder(), 4)["nelbo"].is_finite());
    let out = dataflow.folder().join("evaluations");
    let mut command = Command::new(program("difflow"));
    command.args(["eval", "--tasks", "paper-gsm8k", "--limit", "3", "--checkpoint"]).arg(dataflow.run_folder());
    command.arg("--out").arg(&out).arg("--task-folder").arg(difflow_tests::root().join("data/tasks"));
    let told = Outcome::of(command, Duration::from_secs(120)).well();
    assert!(told.text.contains("final_answer,unknown"), "{}", told.text);
}
