//! What belongs to a run: its name, its corpus, its checkpoints.

use std::fs;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Life, Outcome, all_gone, program};

use crate::faults::same;
use crate::{json, weights};

const OVER: Duration = Duration::from_secs(90);

/// Stops a slow run after its checkpoint of `step`, and expects that to go well.
fn stopped_after(dataflow: &Dataflow, step: u64) {
    let mut life = Life::begin(dataflow);
    let path = dataflow.run_folder().join(format!("checkpoints/step-{step:08}"));
    assert!(life.until(|_| path.exists()), "it ended before step {step}");
    life.signal(libc::SIGINT);
    let (outcome, processes) = life.end(OVER);
    outcome.well();
    all_gone(&processes, OVER);
}

/// The second is refused, and the first does not notice.
#[test]
fn two_runs_of_one_name() {
    let whole = Dataflow::tiny(60);
    whole.run().well();
    let slow = Dataflow::tiny(60).set("trainer", "SLOW_DOWN_SECONDS", 0.6);
    let mut first = Life::begin(&slow);
    let path = slow.run_folder().join("checkpoints/step-00000000");
    assert!(first.until(|_| path.exists()), "the first run did not begin");
    slow.run_within(OVER).refused(78, &["error: RUN: found", "another process", "choose another RUN"]);
    let (outcome, _) = first.end(OVER);
    outcome.well();
    same(&whole, &slow, 60);
}

#[test]
fn a_corpus_that_changed_is_refused_when_the_run_goes_on() {
    let whole = Dataflow::tiny(12);
    whole.run().well();
    let dataflow = Dataflow::tiny(12).set("trainer", "SLOW_DOWN_SECONDS", 0.5);
    stopped_after(&dataflow, 3);
    let corpus = dataflow.corpus_file();
    let text = fs::read_to_string(&corpus).unwrap();
    // The same size, so that only the content tells.
    fs::write(&corpus, text.replacen("w1", "w2", 1)).unwrap();
    dataflow.run_within(OVER).refused(78, &["SOURCES", "corpus.jsonl", "its content changed", "another RUN"]);
    fs::write(&corpus, &text[..text.len() / 2]).unwrap();
    dataflow.run_within(OVER).refused(78, &["corpus.jsonl", "bytes and had"]);
    fs::remove_file(&corpus).unwrap();
    dataflow.run_within(OVER).refused(78, &["corpus.jsonl"]);
    fs::write(&corpus, text).unwrap();
    let dataflow = dataflow.set("trainer", "SLOW_DOWN_SECONDS", 0);
    dataflow.run().well();
    same(&whole, &dataflow, 12);
}

/// While documents are still read: the token store is far from complete, and the run far longer than the corpus, so that it must come to the
/// file that is gone.
#[test]
fn a_corpus_that_disappears_while_it_is_read_ends_the_run() {
    let dataflow = Dataflow::tiny(1_000_000);
    let (folder, text) = (dataflow.folder().join("parts"), fs::read_to_string(dataflow.corpus_file()).unwrap());
    fs::create_dir(&folder).unwrap();
    (0..32).for_each(|part| fs::write(folder.join(format!("{part:02}.jsonl")), &text).unwrap());
    let dataflow = dataflow.set("corpus", "SOURCES", serde_json::json!([{"path": folder}]).to_string());
    let mut life = Life::begin(&dataflow);
    let path = dataflow.run_folder().join("checkpoints/step-00000000");
    assert!(life.until(|_| path.exists()), "training did not begin");
    fs::remove_file(folder.join("31.jsonl")).unwrap();
    assert!(!dataflow.run_folder().join("tokens/store.json").exists(), "the token store is complete");
    let (outcome, _) = life.end(OVER);
    outcome.refused(78, &["31.jsonl"]);
}

fn difflow(dataflow: &Dataflow, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(program("difflow"));
    command.arg("run").arg(dataflow.write()).args(arguments).current_dir(dataflow.folder()).env("NO_COLOR", "1");
    Outcome::of(command, Duration::from_secs(120))
}

#[test]
fn a_run_goes_back_to_a_checkpoint_and_forks_from_one() {
    let dataflow = Dataflow::tiny(12);
    dataflow.run().well();
    let run = dataflow.run_folder();
    let before = weights(&run, 12);
    difflow(&dataflow, &["--from", "7"]).refused(1, &["no checkpoint of step 7", "0, 3, 6, 9, 12"]);
    difflow(&dataflow, &["--from", "6"]).well().says(&["step 9 is set aside", "step 12 is set aside"]);
    assert!(before == weights(&run, 12), "the same steps again gave other weights");

    let warmer = dataflow.set("trainer", "LEARNING_RATE", 0.02);
    difflow(&warmer, &["--fork", "warmer", "--from", "6"]).well();
    let fork = run.with_file_name("warmer");
    assert!(
        before != weights(&fork, 12) && before == weights(&run, 12),
        "a fork has its own weights and leaves the others"
    );
    let record = json(&fork.join("run.json"));
    assert_eq!((&record["fork"]["step"], &record["configuration"]["trainer.RUN"]), (&6.into(), &"warmer".into()));
    let after = weights(&fork, 12);
    difflow(&warmer, &["--fork", "warmer"]).well();
    assert!(after == weights(&fork, 12));
    let mut inspect = Command::new(program("difflow"));
    inspect.args(["inspect", "run", "--json"]).arg(&fork);
    Outcome::of(inspect, OVER).well().says(&["\"exactly_once\":true", "\"batches\":12"]);
}

/// The audit is evidence only if it can speak against a run.
#[test]
fn a_record_that_was_changed_proves_nothing() {
    let dataflow = Dataflow::tiny(6);
    dataflow.run().well();
    let run = dataflow.run_folder();
    let text = fs::read_to_string(run.join("audit.jsonl")).unwrap();
    let inspect = || {
        let mut inspect = Command::new(program("difflow"));
        inspect.args(["inspect", "run"]).arg(&run);
        Outcome::of(inspect, OVER)
    };
    inspect().well();
    fs::write(run.join("audit.jsonl"), text.replace("\"first_seq\":2", "\"first_seq\":1")).unwrap();
    assert_eq!(inspect().code, 1);
    let last = text.lines().filter(|line| !line.contains("\"step\":4")).collect::<Vec<_>>().join("\n");
    fs::write(run.join("audit.jsonl"), last).unwrap();
    inspect().refused(1, &["no record of checkpoint"]);
}
