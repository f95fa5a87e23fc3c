//! Parts of a node's entry in a dataflow file, to be changed.

use crate::dataflow::yaml::{Content, Entry, Node};

/// The sources of a node's inputs.
pub fn sources(node: &mut Node) -> Vec<&mut Node> {
    let inputs = node.get_mut("inputs").and_then(Node::entries_mut);
    inputs.into_iter().flatten().filter_map(|entry| source(&mut entry.value)).collect()
}

/// The source of an input, which may have options beside it.
pub fn source(input: &mut Node) -> Option<&mut Node> {
    if matches!(input.content, Content::Map(_)) { input.get_mut("source") } else { Some(input) }
}

/// The `env:` of a node, made if there is none; `None` where something else stands there.
pub fn env_of(node: &mut Node) -> Option<&mut Vec<Entry>> {
    let at = node.at;
    let entries = node.entries_mut()?;
    entries.retain(|entry| entry.key != "env" || !entry.value.is_null());
    if !entries.iter().any(|entry| entry.key == "env") {
        entries.push(Entry { key: "env".into(), at, value: Node { at, content: Content::Map(Vec::new()) } });
    }
    node.get_mut("env")?.entries_mut()
}
