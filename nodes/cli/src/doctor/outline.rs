//! The dataflow file by which a cluster is looked at.

use std::path::Path;

use serde_json::{Value, json};

use crate::doctor::collector::Collect;
use crate::doctor::probe::{Question, TASK, Task};

/// The node that asks.
const COLLECTOR: &str = "collector";

/// The node on machine number `i`.
pub fn probe_of(i: usize) -> String {
    format!("probe-{i}")
}

/// The collector's input from machine number `i`.
pub fn answer_of(i: usize) -> String {
    format!("answer-{i}")
}

/// The text of the file: `program` on each machine, and once more on the first of them. No node has a working folder, so that it starts
/// where the dataflow file's folder is missing, too.
///
/// # Errors
/// When a task cannot be written as JSON.
pub fn dataflow(program: &Path, questions: &[Question], seconds: u64) -> serde_json::Result<String> {
    let machines: Vec<String> = questions.iter().map(|question| question.machine.clone()).collect();
    let node = |id: &str, machine: Option<&String>, task: Task, inputs: Value, output: &str| {
        // dora fills in what stands behind a dollar sign.
        let task = serde_json::to_string(&task)?.replace('$', "\\u0024");
        Ok::<_, serde_json::Error>(json!({
            "id": id, "path": program, "args": "probe", "deploy": {"machine": machine},
            "env": {TASK: task}, "inputs": inputs, "outputs": [output],
        }))
    };
    let edge = |source: String| json!({"source": source, "queue_size": 64});
    let answers: serde_json::Map<String, Value> =
        (0..machines.len()).map(|i| (answer_of(i), edge(format!("{}/answer", probe_of(i))))).collect();
    let collect = Task::Collect(Collect { machines: machines.clone(), seconds });
    let mut nodes = vec![node(COLLECTOR, machines.first(), collect, answers.into(), "ask")?];
    for (i, question) in questions.iter().enumerate() {
        let inputs = json!({"ask": edge(format!("{COLLECTOR}/ask"))});
        nodes.push(node(&probe_of(i), Some(&question.machine), Task::Answer(question.clone()), inputs, "answer")?);
    }
    serde_json::to_string_pretty(&json!({"nodes": nodes}))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_node_kit::RunKeys;
    use difflow_node_kit::dataflow::Dataflow;

    use super::*;
    use crate::doctor::report::Places;

    /// Paths may have any character in them.
    #[test]
    fn dora_hands_each_node_its_task() {
        let places = Places {
            folder: "/a/$HOME: \"b\"".into(),
            base_model: "${X}".into(),
            sources: None,
            run: RunKeys::default(),
        };
        let question = |machine: &str, leads| Question {
            machine: machine.to_owned(),
            trainer: "/bin/difflow-trainer".into(),
            rendezvous: Some("10.0.0.1:29500".to_owned()),
            leads,
            places: Some(places.clone()),
        };
        let questions = [question("a", true), question("b", false)];
        let text = dataflow(Path::new("/x/difflow"), &questions, 9).unwrap();
        let dataflow = Dataflow::parse(&text).unwrap();
        dataflow.check().unwrap();
        let own = dataflow.own();
        let task = |id: &str| serde_json::from_str::<Task>(&own[id][TASK]).unwrap();
        assert_eq!(task("probe-1"), Task::Answer(questions[1].clone()));
        assert_eq!(task(COLLECTOR), Task::Collect(Collect { machines: vec!["a".into(), "b".into()], seconds: 9 }));
        let file: Value = serde_json::from_str(&text).unwrap();
        let machines: Vec<&Value> = (0..3).map(|i| &file["nodes"][i]["deploy"]["machine"]).collect();
        assert_eq!(machines, ["a", "a", "b"]);
    }
}
