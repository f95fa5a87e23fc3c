//! Which inputs the monitor has in this dataflow, who sends them, and which are still open.

use std::collections::{BTreeMap, BTreeSet};

use difflow_node_kit::Problem;
use difflow_schema::ports::{PORTS, TICK};
use serde_json::Value;

/// The message inputs that the monitor understands; `tick` is its timer.
fn known() -> Vec<&'static str> {
    let own = PORTS.iter().find(|ports| ports.program == env!("CARGO_PKG_NAME"));
    own.into_iter().flat_map(|ports| ports.inputs).filter(|port| port.message != TICK).map(|port| port.name).collect()
}

/// The monitor's connected inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    sources: BTreeMap<String, String>,
    open: BTreeSet<String>,
}

impl Inputs {
    /// The inputs of node `id` in a parsed dataflow file.
    ///
    /// # Errors
    /// An input that the monitor does not know, or none at all.
    pub fn of(dataflow: &Value, id: &str) -> Result<Self, Vec<Problem>> {
        let nodes = dataflow.get("nodes").and_then(Value::as_array).into_iter().flatten();
        let node = nodes.filter(|node| node.get("id").and_then(Value::as_str) == Some(id));
        let inputs = node.filter_map(|node| node.get("inputs")?.as_object()).flatten();
        let (mut sources, mut problems) = (BTreeMap::new(), Vec::new());
        let known = known();
        let allowed = format!("allowed: tick, {}", known.join(", "));
        for (name, input) in inputs {
            if name == "tick" {
                continue;
            }
            if !known.contains(&name.as_str()) {
                problems.push(Problem::new("inputs", name, &allowed));
            }
            sources.insert(name.clone(), source(input).to_owned());
        }
        if sources.is_empty() {
            problems.push(Problem::new("inputs", "nothing to monitor", &allowed));
        }
        let open = sources.keys().cloned().collect();
        if problems.is_empty() { Ok(Self { sources, open }) } else { Err(problems) }
    }

    /// The node that sends `input`.
    pub fn sender<'a>(&'a self, input: &'a str) -> &'a str {
        self.sources.get(input).map_or(input, |source| source.split('/').next().unwrap_or_default())
    }

    /// The inputs with what is connected to them, as (input, `NODE/OUTPUT`).
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sources.iter().map(|(input, source)| (input.as_str(), source.as_str()))
    }

    /// Notes that nothing comes on `input` any more.
    pub fn close(&mut self, input: &str) {
        self.open.remove(input);
    }

    /// True when nothing can come any more.
    pub fn all_closed(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether `input` is connected and open.
    pub fn is_open(&self, input: &str) -> bool {
        self.open.contains(input)
    }

    /// The nodes that may still send, each once.
    pub fn open_senders(&self) -> Vec<&str> {
        let senders: BTreeSet<&str> = self.open.iter().map(|input| self.sender(input)).collect();
        senders.into_iter().collect()
    }
}

/// `NODE/OUTPUT`, which stands for itself or under `source`.
pub fn source(input: &Value) -> &str {
    input.as_str().or_else(|| input.get("source")?.as_str()).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dataflow(inputs: Value) -> Value {
        json!({"nodes": [{"id": "x", "inputs": {"other": "y/z"}}, {"id": "monitor", "inputs": inputs}]})
    }

    /// A monitor that waited for an input that nobody connected would never end.
    #[test]
    fn only_connected_inputs_are_waited_for() {
        let inputs = json!({"tick": "dora/timer/millis/1000", "training": "trainer/metrics", "samples": {"source": "sampler/samples", "queue_size": 50}});
        let mut inputs = Inputs::of(&dataflow(inputs), "monitor").unwrap();
        assert_eq!(inputs.open_senders(), ["sampler", "trainer"]);
        assert_eq!(inputs.sources().next(), Some(("samples", "sampler/samples")));
        inputs.close("training");
        assert!(!inputs.all_closed() && !inputs.is_open("training"));
        inputs.close("samples");
        assert!(inputs.all_closed());
    }

    #[test]
    fn a_misspelt_input_is_named() {
        let problems = Inputs::of(&dataflow(json!({"trainin": "trainer/metrics"})), "monitor").unwrap_err();
        assert!(problems[0].to_string().contains("`trainin`; allowed: tick, training"), "{problems:?}");
        assert_eq!(Inputs::of(&dataflow(json!({"tick": "dora/timer/millis/1000"})), "monitor").unwrap_err().len(), 1);
    }
}
