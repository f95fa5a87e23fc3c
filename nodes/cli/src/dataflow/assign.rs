//! Keys of one node in the `env:` of all nodes (`sampler.DEVICE: cpu`), and keys that are changed for one run
//! (`--set`).

use std::collections::BTreeSet;
use std::str::FromStr;

use difflow_node_kit::config::{keys, nearest, type_names};

use crate::dataflow::finding::{Finding, Kind};
use crate::dataflow::parts::env_of;
use crate::dataflow::programs::{Program, program};
use crate::dataflow::yaml::{Content, Entry, Mark, Node};

/// `KEY=VALUE` for all nodes that have the key, or `NODE.KEY=VALUE` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    node: Option<String>,
    key: String,
    value: String,
}

impl Assignment {
    /// `key` for all nodes.
    pub fn shared(key: &str, value: &str) -> Self {
        Self { node: None, key: key.to_owned(), value: value.to_owned() }
    }
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("found `{text}`; wanted: KEY=VALUE, or NODE.KEY=VALUE for one node");
        let (name, value) = text.split_once('=').ok_or_else(wanted)?;
        let (node, key) = name.rsplit_once('.').map_or((None, name), |(node, key)| (Some(node.to_owned()), key));
        let good = !key.is_empty() && node.as_ref().is_none_or(|node| !node.is_empty());
        let assignment = Self { node, key: key.to_owned(), value: value.to_owned() };
        if good { Ok(assignment) } else { Err(wanted()) }
    }
}

/// A text as dora hands it on: numbers are written anew.
pub fn as_dora_reads(text: &str) -> String {
    let whole = text.parse::<i64>().map(|number| number.to_string());
    whole.or_else(|_| text.parse::<f64>().map(|number| number.to_string())).unwrap_or_else(|_| text.to_owned())
}

/// Gives each node its own keys of the dataflow's `env:`. Returns whether there were any.
pub fn distribute(root: &mut Node, findings: &mut Vec<Finding>) -> bool {
    let Some(env) = root.get_mut("env").and_then(Node::entries_mut) else { return false };
    let (own, shared): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(env).into_iter().partition(|entry| entry.key.contains('.'));
    *env = shared;
    let any = !own.is_empty();
    for mut entry in own {
        let Some((id, key)) = entry.key.rsplit_once('.').map(|(id, key)| (id.to_owned(), key.to_owned())) else {
            continue;
        };
        let ids = ids(root);
        match node(root, &id).and_then(env_of) {
            Some(env) => {
                entry.key = key;
                env.retain(|other| other.key != entry.key);
                env.push(entry);
            }
            None => {
                let near = nearest(&id, ids.iter().map(String::as_str)).unwrap_or_default();
                let (found, allowed) = (format!("the unknown node `{id}`"), format!("did you mean {near}?"));
                findings.push(Finding::error(
                    Kind::UnknownNode,
                    entry.at,
                    format!("env.{}", entry.key),
                    found,
                    allowed,
                ));
            }
        }
    }
    any
}

/// Changes a key.
///
/// # Errors
/// When no node has it, or dora would hand on another value.
pub fn set(root: &mut Node, assignment: &Assignment) -> Result<(), String> {
    let Assignment { node: id, key, value } = assignment;
    let name = id.as_ref().map_or_else(|| key.clone(), |id| format!("{id}.{key}"));
    let wrong = |found: String, allowed: String| Err(format!("--set {name}: {found}; {allowed}"));
    let near = |found: &str, known: &BTreeSet<String>| {
        let near = nearest(found, known.iter().map(String::as_str));
        near.map_or_else(|| "there is none".to_owned(), |near| format!("did you mean {near}?"))
    };
    let programs: Vec<(String, Option<&Program>)> = programs(root);
    let some: Vec<&(String, Option<&Program>)> =
        programs.iter().filter(|(node, _)| id.as_ref().is_none_or(|id| id == node)).collect();
    if some.is_empty() {
        let ids = programs.iter().map(|(id, _)| id.clone()).collect();
        let id = id.as_deref().unwrap_or_default();
        return wrong(format!("there is no node `{id}`"), near(id, &ids));
    }
    let schemas = some.iter().filter_map(|(_, program)| *program).flat_map(|program| keys(&(program.schema)()));
    let known: Vec<(String, serde_json::Value)> = schemas.collect();
    let schema = known.iter().find(|(known, _)| known == key);
    // A program that is not difflow's may have any key, but is to be named.
    let foreign = id.is_some() && some.iter().all(|(_, program)| program.is_none());
    if schema.is_none() && !foreign {
        let known = known.into_iter().map(|(key, _)| key).collect();
        return wrong("an unknown key".to_owned(), near(key, &known));
    }
    let text = schema.is_some_and(|(_, schema)| type_names(schema).contains(&"string"));
    let read = as_dora_reads(value);
    if text && read != *value {
        return wrong(
            format!("found `{value}`"),
            format!("dora would make it `{read}`; wanted: no number, or that one"),
        );
    }
    let entry = |at: Mark| Entry { key: key.clone(), at, value: Node::quoted(at, value.clone()) };
    let at = root.at;
    if let Some(id) = id {
        replace(node(root, id).and_then(env_of), entry(at));
        return Ok(());
    }
    for (id, _) in &programs {
        let env = node(root, id).and_then(|node| node.get_mut("env")).and_then(Node::entries_mut);
        if let Some(old) = env.and_then(|env| env.iter_mut().find(|entry| entry.key == *key)) {
            *old = entry(at);
        }
    }
    replace(env_of(root), entry(at));
    Ok(())
}

fn replace(env: Option<&mut Vec<Entry>>, entry: Entry) {
    if let Some(env) = env {
        env.retain(|other| other.key != entry.key);
        env.push(entry);
    }
}

fn nodes(root: &Node) -> &[Node] {
    root.get("nodes").map_or(&[], Node::items)
}

fn ids(root: &Node) -> Vec<String> {
    nodes(root).iter().filter_map(|node| Some(node.get("id")?.text()?.to_owned())).collect()
}

fn programs(root: &Node) -> Vec<(String, Option<&'static Program>)> {
    let named = |node: &Node| {
        let path = node.get("path").and_then(Node::text);
        Some((node.get("id")?.text()?.to_owned(), path.and_then(program)))
    };
    nodes(root).iter().filter_map(named).collect()
}

fn node<'a>(root: &'a mut Node, id: &str) -> Option<&'a mut Node> {
    let Content::List(nodes) = &mut root.get_mut("nodes")?.content else { return None };
    nodes.iter_mut().find(|node| node.get("id").and_then(Node::text) == Some(id))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use difflow_node_kit::dataflow::Dataflow;

    use super::*;
    use crate::dataflow::Tree;

    const FILE: &str = "
env: { RUN: a, sampler.DEVICE: cpu }
nodes:
  - { id: trainer, path: bin/difflow-trainer, env: { STEPS: 7 } }
  - { id: sampler, path: bin/difflow-sampler, env: { DEVICE: cuda, SAMPLES: 1 } }
  - { id: mine, path: bin/mine }
";

    fn set(assignments: &[&str]) -> Result<Dataflow, String> {
        let mut tree = Tree::read(FILE, Path::new("")).unwrap_or_else(|finding| panic!("{finding:?}"));
        let assignments: Vec<Assignment> = assignments.iter().map(|text| text.parse().unwrap()).collect();
        tree.set(&assignments)?;
        Dataflow::parse(&tree.text())
    }

    #[test]
    fn the_key_of_one_node_goes_before_all_others() {
        let dataflow = set(&[]).unwrap();
        assert_eq!(dataflow.own()["sampler"]["DEVICE"], "cpu");
        assert_eq!(dataflow.shared().keys().collect::<Vec<_>>(), ["RUN"]);
        let tree = Tree::read(&FILE.replace("sampler.DEVICE", "smapler.DEVICE"), Path::new(""));
        let tree = tree.unwrap_or_else(|finding| panic!("{finding:?}"));
        assert!(tree.findings[0].allowed.contains("sampler"), "{:?}", tree.findings);
    }

    /// A node's own key would otherwise go before the one that the command line sets for all.
    #[test]
    fn a_key_is_changed_wherever_it_stands() {
        let dataflow = set(&["STEPS=9", "sampler.SAMPLES=2", "RUN=b", "mine.ANY=x=y", "SAMPLES_FINAL="]).unwrap();
        assert_eq!((dataflow.own()["trainer"]["STEPS"].as_str(), dataflow.shared()["STEPS"].as_str()), ("9", "9"));
        assert_eq!(dataflow.own()["sampler"]["SAMPLES"], "2");
        assert_eq!((dataflow.shared()["RUN"].as_str(), dataflow.own()["mine"]["ANY"].as_str()), ("b", "x=y"));
        assert_eq!(dataflow.shared()["SAMPLES_FINAL"], "");
    }

    #[test]
    fn an_unknown_key_or_node_is_refused_with_the_nearest_one() {
        for (wrong, part) in [
            ("STPES=9", "did you mean STEPS?"),
            ("trainr.STEPS=9", "did you mean trainer?"),
            ("trainer.SAMPLES=9", "--set trainer.SAMPLES: an unknown key"),
            ("RUN=1.10", "dora would make it `1.1`"),
        ] {
            let problem = set(&[wrong, "STEPS=1"]).unwrap_err();
            assert!(problem.contains(part), "{wrong}: {problem}");
        }
        for wrong in ["STEPS", "=1", ".STEPS=1", "trainer.=1"] {
            assert!(wrong.parse::<Assignment>().is_err(), "{wrong}");
        }
    }
}
