//! The parts of a dataflow file that difflow has rules about.

use std::collections::BTreeMap;

use difflow_node_kit::dataflow::Environment;

use crate::dataflow::programs::Program;
use crate::dataflow::yaml::Mark;

/// A dataflow file.
#[derive(Default)]
pub struct File {
    /// The `env:` of all nodes.
    pub shared: BTreeMap<String, Value>,
    pub nodes: Vec<NodeEntry>,
    /// Where `nodes:` stands.
    pub nodes_at: Option<Mark>,
    /// `exit_when_nodes_finish`, where it is set.
    pub exits: Option<bool>,
}

/// A value of an `env:` block.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Where its key stands.
    pub key_at: Mark,
    /// Where it stands itself.
    pub at: Mark,
    /// Its text as the node gets it.
    pub text: String,
    /// Its text as it stands in the file.
    pub written: String,
}

/// A node.
pub struct NodeEntry {
    pub id: String,
    /// Where its id stands, or else where it begins.
    pub at: Mark,
    pub path: Option<(String, Mark)>,
    pub program: Option<&'static Program>,
    pub env: BTreeMap<String, Value>,
    pub inputs: Vec<Input>,
    /// Declared outputs.
    pub outputs: Vec<(String, Mark)>,
    pub finish_grace: Option<f64>,
    /// True when the file says on which machine it runs.
    pub placed: bool,
}

/// An input.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    pub name: String,
    pub at: Mark,
    pub source: Source,
    pub source_at: Mark,
    pub queue_size: Option<u64>,
    pub queue_policy: Option<String>,
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `dora/timer/…`.
    Timer,
    /// Something else of dora's.
    Dora,
    /// An output of a node.
    Node { id: String, output: String },
    /// Neither.
    Unreadable,
}

impl Source {
    pub fn of(text: &str) -> Self {
        match text.split_once('/') {
            Some(("dora", rest)) if rest.starts_with("timer/") => Self::Timer,
            Some(("dora", _)) => Self::Dora,
            Some((id, output)) if !id.is_empty() && !output.is_empty() => {
                Self::Node { id: id.to_owned(), output: output.to_owned() }
            }
            _ => Self::Unreadable,
        }
    }
}

impl File {
    /// The node of that id.
    pub fn node(&self, id: &str) -> Option<&NodeEntry> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The value that a node gets for a key, with its place: its own, else the dataflow's.
    pub fn value(&self, node: &NodeEntry, key: &str) -> Option<Value> {
        node.env.get(key).or_else(|| self.shared.get(key)).cloned()
    }

    /// Takes the values as dora reads them: numbers rewritten, variables filled in.
    pub fn take_values(&mut self, shared: &Environment, own: &BTreeMap<String, Environment>) {
        let take = |values: &mut BTreeMap<String, Value>, read: &Environment| {
            for (key, value) in values {
                if let Some(text) = read.get(key) {
                    value.text.clone_from(text);
                }
            }
        };
        take(&mut self.shared, shared);
        for node in &mut self.nodes {
            if let Some(read) = own.get(&node.id) {
                take(&mut node.env, read);
            }
        }
    }
}
