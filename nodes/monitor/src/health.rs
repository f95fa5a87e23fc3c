//! What the monitor knows about the dataflow's nodes and edges.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::inputs::{Inputs, source};
use crate::processes::Processes;

/// Between two searches for processes that are not known yet.
const SEARCH_EVERY: Duration = Duration::from_secs(5);

/// A node on the page; `None` is "not measured".
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeHealth {
    /// Its id.
    pub id: String,
    /// `running`, `ended`, `failed`, or `not seen`: on another machine, or not started yet.
    pub state: &'static str,
    /// Cores' worth of processor time.
    pub cpu: Option<f64>,
    /// Resident memory in bytes.
    pub memory: Option<u64>,
}

/// An edge on the page; `None` is "not measured".
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EdgeHealth {
    /// `NODE → NODE (input)`.
    pub edge: String,
    /// Messages that came.
    pub messages: Option<u64>,
    /// Seconds since the last one.
    pub age: Option<f64>,
    /// Messages that dora dropped, or that had to be asked for again.
    pub lost: Option<u64>,
    /// Whether its sender has ended.
    pub closed: bool,
}

/// Counts what comes in, and watches the processes.
pub struct Health {
    own: String,
    nodes: Vec<String>,
    /// Edges into the node that trains: it says how often it had to ask again.
    feeding: Vec<String>,
    received: BTreeMap<String, (u64, Instant)>,
    dropped: BTreeMap<String, u64>,
    processes: Processes,
    searched: Option<Instant>,
}

impl Health {
    /// Of a parsed dataflow file in which the monitor is node `own`.
    pub fn of(dataflow: &Value, own: &str, inputs: &Inputs) -> Self {
        let nodes = || dataflow.get("nodes").and_then(Value::as_array).into_iter().flatten();
        let id = |node: &Value| node.get("id").and_then(Value::as_str).map(str::to_owned);
        let trainer = inputs.sender("training");
        let fed = nodes().filter(|node| id(node).as_deref() == Some(trainer));
        let edges = fed.filter_map(|node| node.get("inputs")?.as_object()).flatten();
        let edge = |(input, from): (&String, &Value)| format!("{} → {trainer} ({input})", node_of(source(from)));
        Self {
            own: own.to_owned(),
            nodes: nodes().filter_map(id).collect(),
            feeding: edges.map(edge).collect(),
            received: BTreeMap::new(),
            dropped: BTreeMap::new(),
            processes: Processes::of_this_dataflow(),
            searched: None,
        }
    }

    /// Notes a message on `input`.
    pub fn received(&mut self, input: &str) {
        let (count, last) = self.received.entry(input.to_owned()).or_insert((0, Instant::now()));
        *count += 1;
        *last = Instant::now();
    }

    /// Notes messages that dora dropped.
    pub fn dropped(&mut self, counts: Vec<(String, u64)>) {
        for (input, count) in counts {
            *self.dropped.entry(input).or_default() += count;
        }
    }

    /// Everything that dora dropped so far, by input.
    pub fn all_dropped(&self) -> &BTreeMap<String, u64> {
        &self.dropped
    }

    /// All nodes in the order of the dataflow file.
    pub fn nodes(&mut self, failed: Option<&str>) -> Vec<NodeHealth> {
        if self.searched.is_none_or(|at| at.elapsed() >= SEARCH_EVERY) {
            self.searched = Some(Instant::now());
            self.processes.search();
        }
        let processes = &mut self.processes;
        let health = |id: &String| {
            let usage = processes.usage(id);
            let state = match usage {
                _ if failed == Some(id) => "failed",
                Some(_) => "running",
                None if *id == self.own => "running",
                None if processes.known(id) => "ended",
                None => "not seen",
            };
            let (cpu, memory) = (usage.and_then(|usage| usage.cpu), usage.map(|usage| usage.memory));
            NodeHealth { id: id.clone(), state, cpu, memory }
        };
        self.nodes.iter().map(health).collect()
    }

    /// The edges that end at the trainer, of which it said how often it asked again, and those that end here.
    pub fn edges(&self, inputs: &Inputs, asked_again: Option<u64>) -> Vec<EdgeHealth> {
        let feeding = self.feeding.iter().map(|edge| EdgeHealth {
            edge: edge.clone(),
            messages: None,
            age: None,
            lost: asked_again,
            closed: !inputs.is_open("training"),
        });
        let own = inputs.sources().map(|(input, from)| {
            let received = self.received.get(input);
            EdgeHealth {
                edge: format!("{} → {} ({input})", node_of(from), self.own),
                messages: Some(received.map_or(0, |(count, _)| *count)),
                age: received.map(|(_, last)| last.elapsed().as_secs_f64()),
                lost: Some(self.dropped.get(input).copied().unwrap_or(0)),
                closed: !inputs.is_open(input),
            }
        });
        feeding.chain(own).collect()
    }
}

/// The node of `NODE/OUTPUT`.
fn node_of(source: &str) -> &str {
    source.split('/').next().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn edges_are_those_that_somebody_measured() {
        let dataflow = json!({"nodes": [
            {"id": "noiser"},
            {"id": "trainer", "inputs": {"noised": {"source": "noiser/noised"}}},
            {"id": "monitor", "inputs": {"tick": "dora/timer/millis/1000", "training": "trainer/metrics", "scores": "evaluator/scores"}},
        ]});
        let mut inputs = Inputs::of(&dataflow, "monitor").unwrap();
        let mut health = Health::of(&dataflow, "monitor", &inputs);
        health.received("training");
        health.received("training");
        health.dropped(vec![("scores".into(), 2)]);
        health.dropped(vec![("scores".into(), 1)]);
        inputs.close("scores");
        let edges = health.edges(&inputs, Some(4));
        let shown: Vec<_> = edges.iter().map(|e| (e.edge.as_str(), e.messages, e.lost, e.closed)).collect();
        let wanted = [
            ("noiser → trainer (noised)", None, Some(4), false),
            ("evaluator → monitor (scores)", Some(0), Some(3), true),
            ("trainer → monitor (training)", Some(2), Some(0), false),
        ];
        assert_eq!(shown, wanted);
        assert_eq!(edges[1].age, None, "nothing came, so nothing is old");
    }

    #[test]
    fn a_failed_node_is_named_and_one_that_was_never_found_is_not_called_ended() {
        let dataflow = json!({"nodes": [{"id": "trainer"}, {"id": "sampler"}, {"id": "monitor", "inputs": {"training": "trainer/metrics"}}]});
        let inputs = Inputs::of(&dataflow, "monitor").unwrap();
        let nodes = Health::of(&dataflow, "monitor", &inputs).nodes(Some("trainer"));
        let states: Vec<_> = nodes.iter().map(|node| (node.id.as_str(), node.state)).collect();
        assert_eq!(states, [("trainer", "failed"), ("sampler", "not seen"), ("monitor", "running")]);
    }
}
