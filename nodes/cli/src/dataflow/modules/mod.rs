//! dora's modules: a node `module: FILE` stands for the nodes of that file. dora itself expands them only if the file
//! is below the dataflow file's folder, and calls the nodes `MODULE.NODE`; here modules are expanded wherever the
//! file is, and the nodes keep their own names as long as these are unique.

mod file;
mod inner;
mod inputs;
mod names;
mod outputs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use difflow_node_kit::config::nearest;

use crate::dataflow::finding::{Finding, Kind};
use crate::dataflow::parts::sources;
use crate::dataflow::yaml::{Content, Entry, Node};

/// What a node that stands for a module may have; dora also knows `params` and `build`.
const OF_A_USE: [&str; 7] = ["id", "name", "description", "module", "inputs", "env", "deploy"];

/// Where an output is read: a node's full id, and the output.
pub type Outputs = BTreeMap<String, String>;

/// Writes modules out.
pub struct Expander<'a> {
    /// The dataflow file's folder.
    folder: &'a Path,
    /// The files that were read: the dataflow file has no name here.
    pub files: Vec<PathBuf>,
    pub findings: Vec<Finding>,
    /// The own name of each node of a module, by its full id.
    names: BTreeMap<String, String>,
    /// Files that are being written out.
    open: Vec<PathBuf>,
}

/// A node that stands for a module, seen from inside.
pub struct Use<'a> {
    id: &'a str,
    inputs: &'a [Entry],
    env: &'a [Entry],
    deploy: Option<&'a Entry>,
}

impl<'a> Expander<'a> {
    /// For a dataflow file in `folder`.
    pub fn new(folder: &'a Path) -> Self {
        let (files, findings, names, open) = (vec![PathBuf::new()], Vec::new(), BTreeMap::new(), Vec::new());
        Self { folder, files, findings, names, open }
    }

    /// Puts the nodes of modules in their places. Returns whether there are any.
    pub fn expand(&mut self, root: &mut Node) -> bool {
        let Some(Node { content: Content::List(nodes), .. }) = root.get_mut("nodes") else { return false };
        if !nodes.iter().any(is_module) {
            return false;
        }
        let written_out = self.level(std::mem::take(nodes), Path::new(""));
        *nodes = written_out.0;
        self.shorten(nodes);
        true
    }

    /// The nodes of one file with those of its modules; and the outputs of each module, by its full id.
    fn level(&mut self, nodes: Vec<Node>, folder: &Path) -> (Vec<Node>, BTreeMap<String, Outputs>) {
        let (mut all, mut modules) = (Vec::new(), BTreeMap::new());
        for node in nodes {
            if is_module(&node) {
                let Some(id) = node.get("id").and_then(Node::text).map(str::to_owned) else {
                    let found = "a module without an id";
                    self.findings.push(Finding::error(Kind::MissingKey, node.at, "nodes", found, "wanted: `id: NAME`"));
                    continue;
                };
                if let Some((inner, outputs)) = self.module(&node, &id, folder) {
                    all.extend(inner);
                    modules.insert(id, outputs);
                }
            } else {
                all.push(node);
            }
        }
        for source in all.iter_mut().flat_map(sources) {
            self.outside(source, &modules);
        }
        (all, modules)
    }

    /// An input from a module becomes one from the node inside that gives it.
    fn outside(&mut self, source: &mut Node, modules: &BTreeMap<String, Outputs>) {
        let Content::Scalar { text, .. } = &mut source.content else { return };
        let Some((id, output)) = text.split_once('/') else { return };
        let Some(outputs) = modules.get(id) else { return };
        match outputs.get(output) {
            Some(inner) => text.clone_from(inner),
            None => {
                let near = nearest(output, outputs.keys().map(String::as_str));
                let allowed =
                    near.map_or_else(|| format!("{id} has no outputs"), |near| format!("did you mean {id}/{near}?"));
                let found = format!("`{output}`, which module {id} does not give");
                self.findings.push(Finding::error(Kind::UnknownOutput, source.at, id.to_owned(), found, allowed));
            }
        }
    }

    fn module(&mut self, node: &Node, id: &str, folder: &Path) -> Option<(Vec<Node>, Outputs)> {
        let allowed = "wanted: `id`, `module`, `inputs` and `env`; a module with more is for `dora run`";
        for entry in node.entries() {
            if !OF_A_USE.contains(&entry.key.as_str()) && !entry.value.is_null() {
                let found = format!("`{}` of a module", entry.key);
                self.findings.push(Finding::error(Kind::UnknownKey, entry.at, id, found, allowed));
            }
        }
        let module = self.read(node.get("module")?, id, folder)?;
        let place = Use {
            id,
            inputs: node.get("inputs").map_or(&[], Node::entries),
            env: node.get("env").map_or(&[], Node::entries),
            deploy: node.entries().iter().find(|entry| entry.key == "deploy"),
        };
        self.bound(&place, &module, node.at);
        let ids: BTreeSet<String> =
            module.nodes.iter().filter_map(|node| Some(node.get("id")?.text()?.to_owned())).collect();
        let mut inside = module.nodes.clone();
        for inner in &mut inside {
            self.inner(inner, &place, &module, &ids);
        }
        let (nodes, modules) = self.level(inside, &module.folder);
        self.open.pop();
        let outputs = self.outputs(&place, &module, &nodes, &modules);
        Some((nodes, outputs))
    }
}

fn is_module(node: &Node) -> bool {
    node.get("module").is_some_and(|module| !module.is_null())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
