//! A node of a module becomes one of the dataflow.

use std::collections::BTreeSet;
use std::path::Path;

use crate::dataflow::finding::{Finding, Kind};
use crate::dataflow::modules::file::{Module, plain};
use crate::dataflow::modules::{Expander, Use};
use crate::dataflow::parts::env_of;
use crate::dataflow::yaml::{Content, Entry, Node};

/// Keys of the nodes of a module that are not written out here.
const ONLY_DORA: [&str; 4] = ["operator", "operators", "ros2", "hub"];

impl Expander<'_> {
    /// Makes a node of a module one of the dataflow: full names, paths from the dataflow file, and what its module was given.
    pub fn inner(&mut self, node: &mut Node, place: &Use, module: &Module, ids: &BTreeSet<String>) {
        if let Some(entry) = node.entries().iter().find(|entry| ONLY_DORA.contains(&entry.key.as_str())) {
            let (found, allowed) =
                (format!("`{}` in a module", entry.key), "wanted: programs; such a module is for `dora run`");
            self.findings.push(Finding::error(Kind::UnknownKey, entry.at, place.id, found, allowed));
        }
        if let Some(Node { content: Content::Scalar { text, .. }, .. }) = node.get_mut("id") {
            let full = format!("{}.{text}", place.id);
            self.names.insert(full.clone(), std::mem::replace(text, full));
        }
        if let Some(inputs) = node.get_mut("inputs").and_then(Node::entries_mut) {
            let all = std::mem::take(inputs);
            inputs.extend(all.into_iter().filter_map(|entry| self.input(entry, place, module, ids)));
        }
        let cloned = node.get("git").is_some_and(|git| !git.is_null());
        if let Some(Node { content: Content::Scalar { text, .. }, .. }) = node.get_mut("path")
            && !cloned
            && is_file(text)
        {
            *text = plain(&module.folder.join(&*text)).display().to_string();
        }
        let Some(entries) = node.entries_mut() else { return };
        if let Some(deploy) = place.deploy.filter(|_| !entries.iter().any(|entry| entry.key == "deploy")) {
            entries.push(deploy.clone());
        }
        if !place.env.is_empty()
            && let Some(env) = env_of(node)
        {
            let given = place.env.iter().filter(|given| !env.iter().any(|entry| entry.key == given.key));
            let given: Vec<Entry> = given.cloned().collect();
            env.extend(given);
        }
    }
}

/// A program by path: neither dora's words, nor an address, nor from the root, nor a name to be looked for on PATH.
fn is_file(path: &str) -> bool {
    let special = ["shell", "dynamic"].contains(&path) || path.contains("://") || Path::new(path).is_absolute();
    !special
}
