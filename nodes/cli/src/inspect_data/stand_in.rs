//! The dataflow that makes the batches: the nodes before the trainer, and this program in its place.

use std::collections::BTreeSet;
use std::path::Path;

use eyre::{Result, eyre};
use serde_json::{Map, Value, json};

const TRAINER: &str = "difflow-trainer";

/// The text of a dataflow file that says what `text` says up to the trainer; its run is written below `runs`, the examples into `found`.
///
/// # Errors
/// When there is no trainer in it.
pub fn dataflow(text: &str, runs: &Path, found: &Path, examples: u64) -> Result<String> {
    let mut file: Map<String, Value> = serde_saphyr::from_str(text)?;
    let nodes: Vec<Value> = file.get("nodes").and_then(Value::as_array).cloned().unwrap_or_default();
    let of_program = |node: &&Value| Path::new(node["path"].as_str().unwrap_or_default()).ends_with(TRAINER);
    let trainer = nodes
        .iter()
        .find(of_program)
        .ok_or_else(|| eyre!("the dataflow file has no node with the program {TRAINER}"))?;
    let noised = trainer["inputs"].get("noised").ok_or_else(|| eyre!("the trainer has no input `noised`"))?;
    let mut wanted = BTreeSet::new();
    let mut open: Vec<String> = sender(noised).into_iter().collect();
    while let Some(id) = open.pop() {
        let node = nodes.iter().find(|node| node["id"] == id.as_str() && node["id"] != trainer["id"]);
        let Some(node) = node.filter(|_| wanted.insert(id.clone())) else { continue };
        open.extend(node["inputs"].as_object().into_iter().flat_map(|inputs| inputs.values()).filter_map(sender));
    }
    let program = std::env::current_exe()?;
    let args = format!("inspect batches --to {} --examples {examples}", found.display());
    let mut stand_in = json!({"id": trainer["id"], "path": program, "args": args, "inputs": {"noised": noised}, "outputs": ["demand"]});
    if let Some(env) = trainer.get("env") {
        stand_in["env"] = env.clone();
    }
    let before = nodes.iter().filter(|node| node["id"].as_str().is_some_and(|id| wanted.contains(id))).cloned();
    let mut kept: Vec<Value> = before.chain([stand_in]).collect();
    let runs = Value::from(runs.display().to_string());
    for env in kept.iter_mut().filter_map(|node| node.get_mut("env")?.as_object_mut()) {
        env.remove("RUNS");
    }
    file.insert("nodes".to_owned(), kept.into());
    match file.entry("env").or_insert_with(|| json!({})) {
        Value::Object(env) => _ = env.insert("RUNS".to_owned(), runs),
        other => *other = json!({"RUNS": runs}),
    }
    Ok(format!("{:#}", Value::from(file)))
}

/// The node that an input comes from.
fn sender(input: &Value) -> Option<String> {
    let source = input.as_str().or_else(|| input.get("source")?.as_str())?;
    source.rsplit_once('/').map(|(id, _)| id.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A node behind the trainer would wait for checkpoints, and a run of the file's own name would be written to.
    #[test]
    fn only_what_is_before_the_trainer_stays() {
        let text = r"
exit_when_nodes_finish: true
env: {RUN: mine, RUNS: runs, STEPS: 7}
nodes:
  - {id: a.corpus, path: bin/difflow-corpus, inputs: {demand: {source: a.tokenizer/demand, queue_size: 16}}, outputs: [documents]}
  - {id: a.tokenizer, path: bin/difflow-tokenizer, inputs: {documents: a.corpus/documents, demand: noiser/demand}, env: {RUNS: elsewhere}}
  - {id: noiser, path: bin/difflow-noiser, inputs: {sequences: a.tokenizer/sequences, demand: learner/demand}}
  - {id: learner, path: /x/bin/difflow-trainer, inputs: {noised: {source: noiser/noised, queue_size: 9}}, env: {ACCUMULATION: 2}}
  - {id: keeper, path: bin/difflow-checkpointer, inputs: {checkpoint: learner/checkpoint}}
";
        let text = dataflow(text, Path::new("/tmp/r"), Path::new("/tmp/f"), 4).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        let ids: Vec<&str> =
            file["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["a.corpus", "a.tokenizer", "noiser", "learner"]);
        let last = &file["nodes"][3];
        assert_eq!(last["args"], "inspect batches --to /tmp/f --examples 4");
        assert_eq!((&last["env"]["ACCUMULATION"], &last["inputs"]["noised"]["queue_size"]), (&json!(2), &json!(9)));
        assert_eq!((&file["env"]["RUNS"], &file["env"]["RUN"]), (&json!("/tmp/r"), &json!("mine")));
        assert!(file["nodes"][1]["env"].get("RUNS").is_none());
        assert!(dataflow("nodes: []", Path::new(""), Path::new(""), 1).is_err());
    }
}
