//! From YAML to the parts of a dataflow file. Anything with the wrong structure becomes a finding; the rest is still
//! read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use difflow_node_kit::config::nearest;
use difflow_node_kit::dataflow::{KnownKeys, known_keys};

use crate::dataflow::file::{File, Input, NodeEntry, Source, Value};
use crate::dataflow::finding::{Finding, Kind};
use crate::dataflow::programs::program;
use crate::dataflow::tree::Tree;
use crate::dataflow::yaml::{Content, Entry, Mark, Node};

/// What dora knows; made once.
static KEYS: LazyLock<KnownKeys> = LazyLock::new(known_keys);

struct Reader {
    findings: Vec<Finding>,
}

/// A file that was read, and what is wrong with it so far.
pub struct Reading {
    pub file: File,
    pub findings: Vec<Finding>,
    /// The files of [`Mark::file`]; the dataflow file itself has no name here.
    pub files: Vec<PathBuf>,
    /// What dora must read in the place of the file's own text, where that has modules or keys of one node in the `env:` of all.
    pub written_out: Option<String>,
}

/// Reads the text of a file in `folder`. Without a single part that can be read it is empty.
pub fn read(text: &str, folder: &Path) -> Reading {
    match Tree::read(text, folder) {
        Ok(tree) => {
            let written_out = tree.written_out();
            let mut reader = Reader { findings: tree.findings };
            let file = reader.file(&tree.root);
            Reading { file, findings: reader.findings, files: tree.files, written_out }
        }
        Err(finding) => {
            let (file, files) = (File::default(), vec![PathBuf::new()]);
            Reading { file, findings: vec![finding], files, written_out: None }
        }
    }
}

impl Reader {
    fn file(&mut self, root: &Node) -> File {
        let Content::Map(entries) = &root.content else {
            self.wrong_type(root, "the file", "a mapping with `nodes`");
            return File::default();
        };
        if let Some(entry) = entries.iter().find(|entry| entry.key == "module") {
            let allowed = "wanted: a dataflow file; a module is judged with the dataflow that uses it";
            self.findings.push(Finding::error(Kind::WrongValue, entry.at, "the file", "a module", allowed));
            return File::default();
        }
        self.unknown(entries, &KEYS.dataflow, "the dataflow");
        let exits = root.get("exit_when_nodes_finish").and_then(Node::text).and_then(|text| text.parse().ok());
        let shared = root.get("env").map(|env| self.env(env, "env")).unwrap_or_default();
        let Some(entry) = entries.iter().find(|entry| entry.key == "nodes") else {
            self.findings.push(Finding::error(
                Kind::MissingKey,
                Mark::START,
                "nodes",
                "no `nodes`",
                "wanted: a list of nodes",
            ));
            return File { shared, exits, ..File::default() };
        };
        let mut nodes = Vec::new();
        match &entry.value.content {
            Content::List(items) => nodes.extend(items.iter().enumerate().filter_map(|(i, item)| self.node(item, i))),
            _ => self.wrong_type(&entry.value, "nodes", "a list of nodes"),
        }
        if nodes.is_empty() && matches!(&entry.value.content, Content::List(items) if items.is_empty()) {
            self.findings.push(Finding::error(Kind::MissingKey, entry.at, "nodes", "no node", "wanted: at least one"));
        }
        let mut ids = BTreeSet::new();
        for node in &nodes {
            if !ids.insert(node.id.clone()) {
                let found = format!("`{}` a second time", node.id);
                self.findings.push(Finding::error(Kind::DuplicateId, node.at, "nodes", found, "wanted: each id once"));
            }
        }
        File { shared, nodes, nodes_at: Some(entry.at), exits }
    }

    fn node(&mut self, node: &Node, index: usize) -> Option<NodeEntry> {
        let Content::Map(entries) = &node.content else {
            self.wrong_type(node, &format!("nodes[{index}]"), "a mapping with `id` and `path`");
            return None;
        };
        let id = node.get("id").filter(|id| id.text().is_some_and(|text| !text.is_empty()));
        if id.is_none() {
            let (subject, found) = (format!("nodes[{index}]"), "a node without an id");
            self.findings.push(Finding::error(Kind::MissingKey, node.at, subject, found, "wanted: `id: NAME`"));
        }
        let name = id.and_then(Node::text).map_or_else(|| format!("nodes[{index}]"), str::to_owned);
        self.unknown(entries, &KEYS.node, &name);
        let path = node.get("path").and_then(|path| Some((path.text()?.to_owned(), path.at)));
        let starts = ["path", "operator", "operators", "ros2", "module", "hub"];
        if !starts.iter().any(|key| node.get(key).is_some_and(|value| !value.is_null())) {
            let allowed = "wanted: `path: PROGRAM`";
            self.findings.push(Finding::error(
                Kind::MissingKey,
                node.at,
                format!("{name}.path"),
                "no program",
                allowed,
            ));
        }
        let finish_grace = node.get("finish_grace_secs").and_then(Node::text).and_then(|text| text.parse().ok());
        Some(NodeEntry {
            at: id.map_or(node.at, |id| id.at),
            program: path.as_ref().and_then(|(path, _)| program(path)),
            env: node.get("env").map(|env| self.env(env, &name)).unwrap_or_default(),
            inputs: node.get("inputs").map(|inputs| self.inputs(inputs, &name)).unwrap_or_default(),
            outputs: node.get("outputs").map(|outputs| self.outputs(outputs, &name)).unwrap_or_default(),
            finish_grace,
            placed: node.get("deploy").is_some_and(|deploy| deploy.get("machine").is_some()),
            path,
            id: name,
        })
    }

    fn env(&mut self, env: &Node, owner: &str) -> BTreeMap<String, Value> {
        let mut values = BTreeMap::new();
        if !matches!(env.content, Content::Map(_)) && !env.is_null() {
            self.wrong_type(env, &format!("{owner}.env"), "a mapping of keys to values");
        }
        for entry in env.entries() {
            match &entry.value.content {
                Content::Scalar { .. } if entry.value.is_null() => {
                    let allowed = "wanted: a value, or '' for an empty text";
                    self.wrong_type(&entry.value, &format!("{owner}.{}", entry.key), allowed);
                }
                Content::Scalar { text, .. } => {
                    let (key_at, at) = (entry.at, entry.value.at);
                    let value = Value { key_at, at, text: text.clone(), written: text.clone() };
                    values.insert(entry.key.clone(), value);
                }
                _ => {
                    let allowed = "a single value; JSON goes between '…'";
                    self.wrong_type(&entry.value, &format!("{owner}.{}", entry.key), allowed);
                }
            }
        }
        values
    }

    fn inputs(&mut self, inputs: &Node, owner: &str) -> Vec<Input> {
        if !matches!(inputs.content, Content::Map(_)) && !inputs.is_null() {
            self.wrong_type(inputs, &format!("{owner}.inputs"), "a mapping of inputs to NODE/OUTPUT");
        }
        inputs.entries().iter().filter_map(|entry| self.input(entry, owner)).collect()
    }

    fn input(&mut self, entry: &Entry, owner: &str) -> Option<Input> {
        let subject = format!("{owner}.inputs.{}", entry.key);
        let source = match &entry.value.content {
            Content::Scalar { .. } => Some(&entry.value),
            Content::Map(options) => {
                self.unknown(options, &KEYS.input, &subject);
                entry.value.get("source")
            }
            Content::List(_) => None,
        };
        let Some((source, text)) = source.and_then(|source| Some((source, source.text()?))) else {
            self.wrong_type(&entry.value, &subject, "NODE/OUTPUT, or a mapping with `source: NODE/OUTPUT`");
            return None;
        };
        let read = Source::of(text);
        if read == Source::Unreadable {
            let allowed = "wanted: NODE/OUTPUT, or dora/timer/millis/NUMBER";
            let found = format!("`{text}`");
            self.findings.push(Finding::error(Kind::WrongValue, source.at, subject.clone(), found, allowed));
        }
        let queue = entry.value.get("queue_size");
        let queue_size = queue.and_then(Node::text).and_then(|text| text.parse().ok());
        if let (Some(queue), None | Some(0)) = (queue, queue_size) {
            self.wrong_type(queue, &format!("{subject}.queue_size"), "a whole number, at least 1");
        }
        let queue_policy = entry.value.get("queue_policy").and_then(Node::text).map(str::to_owned);
        Some(Input {
            name: entry.key.clone(),
            at: entry.at,
            source: read,
            source_at: source.at,
            queue_size,
            queue_policy,
        })
    }

    fn outputs(&mut self, outputs: &Node, owner: &str) -> Vec<(String, Mark)> {
        let Content::List(items) = &outputs.content else {
            if !outputs.is_null() {
                self.wrong_type(outputs, &format!("{owner}.outputs"), "a list of names");
            }
            return Vec::new();
        };
        let mut names = Vec::new();
        for item in items {
            match item.text() {
                Some(text) => names.push((text.to_owned(), item.at)),
                None => self.wrong_type(item, &format!("{owner}.outputs"), "names"),
            }
        }
        names
    }

    fn wrong_type(&mut self, node: &Node, subject: &str, wanted: &str) {
        let found = match node.text() {
            Some(text) if !node.is_null() => format!("`{text}`"),
            _ => node.what().to_owned(),
        };
        let allowed = if wanted.starts_with("wanted") { wanted.to_owned() } else { format!("wanted: {wanted}") };
        self.findings.push(Finding::error(Kind::WrongType, node.at, subject, found, allowed));
    }

    fn unknown(&mut self, entries: &[Entry], known: &[String], owner: &str) {
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key)) {
            let hint = nearest(&entry.key, known.iter().map(String::as_str)).unwrap_or_default();
            let found = format!("the unknown key `{}`", entry.key);
            let allowed = format!("did you mean {hint}?");
            self.findings.push(Finding::error(Kind::UnknownKey, entry.at, owner, found, allowed));
        }
    }
}
