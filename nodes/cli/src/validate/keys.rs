//! Every node's keys, parsed with the node's own types and rules.

use std::collections::BTreeSet;

use difflow_node_kit::config::{self, nearest, type_names};

use crate::dataflow::programs::PROGRAMS;
use crate::dataflow::{File, Finding, Kind, Mark, NodeEntry, Settings};

/// A node of difflow with its settings.
pub struct Node<'a> {
    pub entry: &'a NodeEntry,
    pub settings: Settings,
    /// Keys that cannot be read.
    pub unread: Vec<String>,
    file: &'a File,
}

impl Node<'_> {
    /// Where the value of a key stands: the node's own, else the dataflow's, else the node, which has the default.
    pub fn place(&self, key: &str) -> Mark {
        self.file.value(self.entry, key).map_or(self.entry.at, |value| value.at)
    }

    /// `trainer.STEPS`, or `env.STEPS` for a key of the dataflow.
    pub fn subject(&self, key: &str) -> String {
        let shared = !self.entry.env.contains_key(key) && self.file.shared.contains_key(key);
        format!("{}.{key}", if shared { "env" } else { &self.entry.id })
    }

    /// True when a key can be read, so that a rule about it means something.
    pub fn read(&self, key: &str) -> bool {
        !self.unread.iter().any(|unread| unread == key)
    }

    /// The settings as JSON, by key.
    pub fn values(&self) -> serde_json::Value {
        let value = match &self.settings {
            Settings::Corpus(c) => serde_json::to_value(c),
            Settings::Tokenizer(c) => serde_json::to_value(c),
            Settings::Noiser(c) => serde_json::to_value(c),
            Settings::Trainer(c) => serde_json::to_value(c),
            Settings::Checkpointer(c) => serde_json::to_value(c),
            Settings::Sampler(c) => serde_json::to_value(c),
            Settings::Evaluator(c) => serde_json::to_value(c),
            Settings::Monitor(c) => serde_json::to_value(c),
            Settings::Server(c) => serde_json::to_value(c),
        };
        value.unwrap_or_default()
    }
}

/// Reads the keys of every node that is difflow's.
pub fn settings<'a>(file: &'a File, environment: bool, findings: &mut Vec<Finding>) -> Vec<Node<'a>> {
    let mut nodes = Vec::new();
    for entry in &file.nodes {
        let Some(program) = entry.program else { continue };
        let own: Vec<String> = entry.env.keys().cloned().collect();
        let lookup = |key: &str| file.value(entry, key).map(|value| value.text);
        let reading = (program.read)(&own, &lookup);
        let node = Node { entry, settings: reading.settings, unread: reading.unread, file };
        for problem in reading.problems {
            let kind = Kind::from(problem.kind);
            if kind == Kind::MissingFile && !environment {
                continue;
            }
            let at = match kind {
                Kind::UnknownKey => entry.env.get(&problem.key).map_or(entry.at, |value| value.key_at),
                _ => node.place(&problem.key),
            };
            let quoted = format!("`{}`", problem.found);
            let found = if kind == Kind::UnknownKey { format!("the unknown key `{}`", problem.key) } else { quoted };
            findings.push(Finding::error(kind, at, node.subject(&problem.key), found, problem.allowed));
        }
        rewritten(entry, findings);
        nodes.push(node);
    }
    shared_keys(file, findings);
    nodes
}

/// A key in the dataflow's `env:` that no node has.
fn shared_keys(file: &File, findings: &mut Vec<Finding>) {
    let used: BTreeSet<&str> = file.nodes.iter().filter_map(|node| Some(node.program?.ports.program)).collect();
    let programs = PROGRAMS.iter().filter(|program| used.contains(program.ports.program));
    let known: BTreeSet<String> =
        programs.flat_map(|program| config::keys(&(program.schema)())).map(|(key, _)| key).collect();
    // A program that is not difflow's may want any key.
    let foreign = file.nodes.iter().any(|node| node.program.is_none());
    for (key, value) in file.shared.iter().filter(|(key, _)| !known.contains(*key) && !known.is_empty()) {
        let near = nearest(key, known.iter().map(String::as_str)).unwrap_or_default();
        let (found, allowed) = (format!("the unknown key `{key}`"), format!("did you mean {near}?"));
        let finding = Finding::error(Kind::UnknownKey, value.key_at, format!("env.{key}"), found, allowed);
        findings.push(if foreign { finding.warning() } else { finding });
    }
}

/// A text that dora takes for a number and writes anew: `RUN: 1.10` would become the run `1.1`.
fn rewritten(entry: &NodeEntry, findings: &mut Vec<Finding>) {
    let Some(program) = entry.program else { return };
    for (key, schema) in config::keys(&(program.schema)()) {
        let Some(value) = entry.env.get(&key) else { continue };
        let text = type_names(&schema).contains(&"string");
        if text && value.text != value.written && !value.written.contains('$') {
            let found = format!("`{}`, which dora turns into `{}`", value.written, value.text);
            let allowed = "wanted: a text that is no number, such as v1.10; quotes change nothing";
            let subject = format!("{}.{key}", entry.id);
            findings.push(Finding::error(Kind::WrongValue, value.at, subject, found, allowed).warning());
        }
    }
}
