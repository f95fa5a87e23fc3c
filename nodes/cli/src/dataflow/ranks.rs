//! A dataflow with one trainer, written out for several ranks: a trainer node for each, with a demand and an output of the noiser of its own.

use std::path::{Path, PathBuf};

use difflow_schema::ports::of_rank;

use crate::dataflow::file::Source;
use crate::dataflow::parts::source;
use crate::dataflow::programs::program;
use crate::dataflow::yaml::{Content, Entry, Mark, Node};

const TRAINER: &str = "difflow-trainer";
const NOISED: &str = "noised";
const DEMAND: &str = "demand";
/// Queues that hold what all ranks have under way: of the noiser's sequences, and of the demand for them.
const SHARED: [&str; 2] = ["sequences", DEMAND];

/// Makes `ranks` trainers out of the one that there is. With machines, the ranks are placed on them in equal parts, and everything else on
/// the first; paths are then those of `folder`.
///
/// # Errors
/// Why that cannot be done.
pub fn expand(root: &mut Node, ranks: usize, machines: &[String], folder: &Path) -> Result<(), String> {
    if ranks == 0 || (!machines.is_empty() && !ranks.is_multiple_of(machines.len())) {
        return Err(format!("found {ranks} ranks on {} machines; wanted: as many on each", machines.len()));
    }
    let Some(nodes) = nodes(root) else { return Err("there are no nodes".to_owned()) };
    let trainers: Vec<usize> = (0..nodes.len()).filter(|&at| runs(&nodes[at], TRAINER)).collect();
    let &[trainer] = trainers.as_slice() else {
        return Err(format!(
            "found {} nodes that run {TRAINER}; wanted: one, of which the ranks are made",
            trainers.len()
        ));
    };
    let id = text(&nodes[trainer], "id").unwrap_or_default();
    let noiser = nodes[trainer].get("inputs").and_then(|inputs| inputs.get(NOISED)).and_then(node_of);
    let noiser = noiser.and_then(|id| nodes.iter().position(|node| node.get("id").and_then(Node::text) == Some(&id)));
    let Some(noiser) = noiser else { return Err(format!("{id} has no input `{NOISED}` from a node of this file")) };
    let mut more = Vec::new();
    for rank in 1..ranks {
        let own = of_rank(&id, rank);
        if nodes.iter().any(|node| node.get("id").and_then(Node::text) == Some(&own)) {
            return Err(format!("there is a node {own} already"));
        }
        more.push(of(&nodes[trainer], &id, &own, rank));
        take_in(&mut nodes[noiser], &own, rank);
    }
    if let Some(upstream) = nodes[noiser].get("inputs").and_then(|inputs| inputs.get(SHARED[0])).and_then(node_of) {
        let mut shared = [text(&nodes[noiser], "id").unwrap_or_default(), upstream].into_iter();
        for (input, id) in SHARED.into_iter().zip(&mut shared) {
            let node = nodes.iter_mut().find(|node| node.get("id").and_then(Node::text) == Some(&id));
            widen(node.and_then(|node| node.get_mut("inputs")?.get_mut(input)), ranks);
        }
    }
    nodes.splice(trainer + 1..trainer + 1, more);
    if machines.is_empty() {
        return Ok(());
    }
    let folder = absolute(folder).map_err(|e| e.to_string())?;
    for (at, node) in nodes.iter_mut().enumerate() {
        let rank = at.checked_sub(trainer).filter(|rank| *rank < ranks).unwrap_or_default();
        place(node, &machines[rank * machines.len() / ranks], &folder);
    }
    Ok(())
}

/// The folder of a dataflow file as other machines must find it. That of a file without one is the present folder.
///
/// # Errors
/// When there is no present folder.
pub fn absolute(folder: &Path) -> std::io::Result<PathBuf> {
    std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

fn nodes(root: &mut Node) -> Option<&mut Vec<Node>> {
    if let Content::List(nodes) = &mut root.get_mut("nodes")?.content { Some(nodes) } else { None }
}

fn runs(node: &Node, name: &str) -> bool {
    node.get("path").and_then(Node::text).and_then(program).is_some_and(|program| program.ports.program == name)
}

fn text(node: &Node, key: &str) -> Option<String> {
    Some(node.get(key)?.text()?.to_owned())
}

/// The node that an input comes from.
fn node_of(input: &Node) -> Option<String> {
    let text = input.get("source").unwrap_or(input).text()?;
    if let Source::Node { id, .. } = Source::of(text) { Some(id) } else { None }
}

/// The trainer of rank `rank`. It has no outputs but its demand: rank 0 writes and tells.
fn of(trainer: &Node, id: &str, own: &str, rank: usize) -> Node {
    let mut node = trainer.clone();
    let at = node.at;
    for entry in node.entries_mut().into_iter().flatten() {
        match entry.key.as_str() {
            "id" => entry.value = Node::quoted(at, own),
            "outputs" => entry.value = Node { at, content: Content::List(vec![plain(at, DEMAND)]) },
            "name" => entry.value = Node::quoted(at, format!("{id}, rank {rank}")),
            _ => {}
        }
    }
    let noised = node.get_mut("inputs").and_then(|inputs| inputs.get_mut(NOISED)).and_then(source);
    if let Some(Node { content: Content::Scalar { text, .. }, .. }) = noised
        && let Some((from, output)) = text.split_once('/')
    {
        *text = format!("{from}/{}", of_rank(output, rank));
    }
    node
}

/// Gives the noiser an output for a rank, and its demand.
fn take_in(noiser: &mut Node, own: &str, rank: usize) {
    let at = noiser.at;
    if let Some(Node { content: Content::List(outputs), .. }) = noiser.get_mut("outputs") {
        outputs.push(plain(at, &of_rank(NOISED, rank)));
    }
    let Some(inputs) = noiser.get_mut("inputs").and_then(Node::entries_mut) else { return };
    let Some(mut value) = inputs.iter().find(|entry| entry.key == DEMAND).map(|entry| entry.value.clone()) else {
        return;
    };
    if let Some(Node { content: Content::Scalar { text, .. }, .. }) = source(&mut value) {
        *text = format!("{own}/{DEMAND}");
    }
    inputs.push(Entry { key: of_rank(DEMAND, rank), at, value });
}

fn plain(at: Mark, text: &str) -> Node {
    Node { at, content: Content::Scalar { text: text.to_owned(), plain: true } }
}

/// Makes room for what all ranks have under way.
fn widen(input: Option<&mut Node>, ranks: usize) {
    let Some(Node { content: Content::Scalar { text, .. }, .. }) = input.and_then(|input| input.get_mut("queue_size"))
    else {
        return;
    };
    if let Ok(size) = text.parse::<usize>() {
        *text = (size * ranks).to_string();
    }
}

/// Says where a node runs. A daemon looks for programs from its own folder, so that of the file is written out.
fn place(node: &mut Node, machine: &str, folder: &Path) {
    let at = node.at;
    if let Some(Node { content: Content::Scalar { text, .. }, .. }) = node.get_mut("path")
        && text.contains('/')
    {
        *text = folder.join(&*text).display().to_string();
    }
    let value = |key: &str, text: String| Entry { key: key.to_owned(), at, value: Node::quoted(at, text) };
    let deploy = vec![value("machine", machine.to_owned()), value("working_dir", folder.display().to_string())];
    if let Some(entries) = node.entries_mut() {
        entries.retain(|entry| entry.key != "deploy");
        entries.push(Entry { key: "deploy".to_owned(), at, value: Node { at, content: Content::Map(deploy) } });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_node_kit::dataflow::Dataflow;

    use super::*;
    use crate::dataflow::Tree;
    use crate::validate::{self, Environment};

    const FILE: &str = include_str!("../../../../dataflow.yml");

    fn expanded(ranks: usize, machines: &[&str]) -> Result<String, String> {
        let mut tree = Tree::read(FILE, Path::new("")).unwrap_or_else(|finding| panic!("{finding:?}"));
        let machines: Vec<String> = machines.iter().map(|&machine| machine.to_owned()).collect();
        expand(&mut tree.root, ranks, &machines, Path::new("/somewhere"))?;
        Ok(tree.text())
    }

    /// A rank without a demand of its own would wait for ever, and one whose batches all ranks get would train on all of them.
    #[test]
    fn each_rank_is_a_trainer_with_its_own_demand() {
        let text = expanded(4, &[]).unwrap().replace("  STEPS: 1100", "  STEPS: 1100\n  ACCUMULATION: 4\n  THREADS: 1");
        let dataflow = Dataflow::parse(&text).unwrap();
        assert_eq!(dataflow.alike("trainer-2", "noised"), ["trainer", "trainer-1", "trainer-2", "trainer-3"]);
        dataflow.check().unwrap();
        let errors: Vec<_> = validate::check(&text, Path::new(""), Environment::None).findings;
        let errors: Vec<_> = errors.iter().filter(|finding| !finding.allowed.contains("cores")).collect();
        assert!(errors.is_empty(), "{errors:?}\n{text}");
        assert!(text.contains("source: \"noiser/noised-3\"") || text.contains("source: noiser/noised-3"), "{text}");
    }

    #[test]
    fn one_rank_changes_nothing() {
        assert_eq!(expanded(1, &[]).unwrap(), Tree::read(FILE, Path::new("")).ok().unwrap().text());
    }

    /// `difflow expand my.yml --machines a,b` in the folder of that file.
    #[test]
    fn a_file_without_a_folder_lies_in_the_present_one() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute(Path::new("")).unwrap(), here);
        assert_eq!(absolute(Path::new("a")).unwrap(), here.join("a"));
    }

    #[test]
    fn ranks_are_placed_in_equal_parts() {
        let text = expanded(4, &["a", "b"]).unwrap();
        let machines: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("machine: ")).collect();
        assert_eq!(
            machines,
            ["\"a\"", "\"a\"", "\"a\"", "\"a\"", "\"a\"", "\"b\"", "\"b\"", "\"a\"", "\"a\"", "\"a\"", "\"a\""]
        );
        assert!(text.contains("path: /somewhere/bin/difflow-trainer"), "{text}");
        assert!(expanded(3, &["a", "b"]).unwrap_err().contains("3 ranks on 2 machines"));
        assert!(expanded(0, &[]).is_err());
    }
}
