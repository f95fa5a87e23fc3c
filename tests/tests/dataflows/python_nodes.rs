//! Nodes in Python among difflow's: docs/examples/python-nodes.yml, shortened.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, python};
use serde_json::Value;

use crate::json;

const STEPS: u64 = 6;

/// The dataflow on sixty texts of three lengths, a third of each, one to a message.
fn dataflow(shortest: usize) -> Dataflow {
    let dataflow = Dataflow::open("docs/examples/python-nodes.yml").shortened(STEPS);
    let text = |n: usize| format!("Sam saw a cat. {}", "The cat ran away. ".repeat([1, 8, 16][n % 3]));
    let lines: Vec<String> = (0..60).map(|n| serde_json::json!({"text": text(n)}).to_string()).collect();
    let texts = dataflow.folder().join("texts.jsonl");
    std::fs::write(&texts, lines.join("\n")).unwrap();
    let log = dataflow.folder().join("log/metrics.jsonl").display().to_string();
    let sources = serde_json::json!([{"path": texts}]).to_string();
    let dataflow = dataflow.set("", "SOURCES", sources).set("corpus", "DOCUMENTS_PER_BATCH", 1);
    dataflow.set("filter", "SHORTEST", shortest).set("log", "LOG", log)
}

/// Runs it with the Python that has dora's library. Returns what the token store says of itself.
fn run(python: &Path, dataflow: &Dataflow) -> Value {
    let mut command = dataflow.command();
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", python.parent().unwrap().display()));
    Outcome::of(command, Duration::from_secs(300)).well();
    json(&dataflow.run_folder().join("tokens/store.json"))
}

/// Two messages of three have nothing left: each is an answer all the same, or the tokenizer would wait for it.
#[test]
fn a_filter_in_python_removes_documents_and_a_reader_sees_every_step() {
    let Some(python) = python("nodes in Python") else { return };
    let (all, long) = (dataflow(1), dataflow(250));
    let (all, store) = (run(&python, &all), run(&python, &long));
    assert_eq!((all["documents"].as_u64(), store["documents"].as_u64()), (Some(60), Some(20)), "{store:#}");
    assert!(all["tokens"].as_u64() > store["tokens"].as_u64());
    assert_ne!(all["key"], store["key"], "one filter's token store would be taken for the other's");
    let log = std::fs::read_to_string(long.folder().join("log/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses = |line: &&Value| line["loss"].is_number();
    let steps: BTreeSet<u64> = lines.iter().filter(losses).map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=STEPS).collect(), "{log}");
}
