//! An experiment of modules: run with keys of the command line, and by plain dora.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Outcome, program, root};
use tempfile::TempDir;

use crate::json;

/// A folder like the checkout. The modules are copies: dora takes only those that lie below the dataflow file's folder.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["bin", "data"] {
        symlink(root().join(name), folder.path().join(name)).expect("a link");
    }
    std::fs::create_dir(folder.path().join("nodes")).expect("a folder");
    for name in ["nodes/adapt.module.yml", "nodes/train.module.yml"] {
        std::fs::copy(root().join(name), folder.path().join(name)).expect("a copy");
    }
    let text = "\
exit_when_nodes_finish: true
nodes: [{ id: adapt, module: nodes/adapt.module.yml }]
env: {
  RUN: short, SEED: 1, STEPS: 4, CHECKPOINT_EVERY: 2, ANNEAL_STEPS: 2, WARMUP_STEPS: 1, SEQUENCE_LENGTH: 160, MICRO_BATCH: 4,
  SAMPLES: 1, SAMPLES_FINAL: 2, DIFFUSION_STEPS: 4, INFILL_SAMPLES: 1, EVAL_DOCUMENTS: 4, EVAL_DRAWS: 1, EVAL_GAPS: 4,
  PAGE: false, tokenizer.SHUFFLE_WINDOW: 64,
}
";
    std::fs::write(folder.path().join("mine.yml"), text).expect("a file");
    folder
}

fn files(folder: &Path, extension: &str) -> usize {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.extension().is_some_and(|found| found == extension)).count()
}

/// The run lies where the file says, and what dora read is kept.
#[test]
fn a_file_of_modules_runs_with_keys_of_the_command_line() {
    let folder = folder();
    let mut command = Command::new(program("difflow"));
    command
        .args(["run", "mine.yml", "--set", "RUN=other", "--set", "sampler.SAMPLES_FINAL=1"])
        .current_dir(folder.path());
    command.env("NO_COLOR", "1");
    Outcome::of(command, Duration::from_secs(300)).well().says(&["validation NELBO"]);
    let run = folder.path().join("runs/other");
    let texts = json(&run.join("samples/step-00000004.json"));
    let whole =
        texts["samples"].as_array().expect("samples").iter().filter(|text| text["kind"] == "unconditional").count();
    assert_eq!(whole, 1, "sampler.SAMPLES_FINAL");
    assert!(run.join("scores/step-00000004.json").exists());
    assert_eq!(files(folder.path(), "yml"), 1, "nothing stays beside the file");
    assert_eq!(files(&folder.path().join("out"), "yml"), 1, "what ran is kept");
}

/// dora calls the nodes adapt.trainer and so on; a key of one node reaches it all the same.
#[test]
fn plain_dora_runs_the_same_file() {
    let folder = folder();
    let mut command = Command::new(program("dora"));
    command.args(["run", "mine.yml"]).current_dir(folder.path());
    Outcome::of(command, Duration::from_secs(300)).well();
    assert!(folder.path().join("runs/short/scores/step-00000004.json").exists());
}
