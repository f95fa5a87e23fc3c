//! Which nodes are connected, and by which messages.

use std::collections::BTreeSet;
use std::path::Path;

use difflow_node_kit::config::nearest;
use difflow_schema::ports::{PORTS, TICK, rank_of};

use crate::dataflow::{File, Finding, Input, Kind, NodeEntry, Source};

/// The input and the output on which demand travels.
const DEMAND: &str = "demand";

/// Checks programs, ports, edges, demand and timers.
pub fn check(file: &File, findings: &mut Vec<Finding>) {
    for node in &file.nodes {
        program(node, findings);
        ports(node, findings);
        for input in &node.inputs {
            edge(file, node, input, findings);
        }
        demand(file, node, findings);
    }
    cycle(file, findings);
    timer(file, findings);
}

/// A program that is called like one of difflow's and is none.
fn program(node: &NodeEntry, findings: &mut Vec<Finding>) {
    let Some((path, at)) = node.path.as_ref().filter(|_| node.program.is_none()) else { return };
    let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with("difflow") {
        let near = nearest(&name, PORTS.iter().map(|ports| ports.program)).unwrap_or_default();
        let (found, allowed) = (format!("`{name}`, which is no program of difflow"), format!("did you mean {near}?"));
        findings.push(Finding::error(Kind::UnknownProgram, *at, format!("{}.path", node.id), found, allowed));
    }
}

/// Inputs and outputs that the program does not have, and inputs that it needs.
fn ports(node: &NodeEntry, findings: &mut Vec<Finding>) {
    let Some(program) = node.program else { return };
    let ports = program.ports;
    for input in node.inputs.iter().filter(|input| ports.input(&input.name).is_none()) {
        let near = nearest(&input.name, ports.inputs.iter().map(|port| port.name)).unwrap_or_default();
        let subject = format!("{}.inputs.{}", node.id, input.name);
        let found = format!("the unknown input `{}`", input.name);
        findings.push(Finding::error(Kind::UnknownInput, input.at, subject, found, format!("did you mean {near}?")));
    }
    for (output, at) in node.outputs.iter().filter(|(output, _)| ports.output(output).is_none()) {
        let near = nearest(output, ports.outputs.iter().map(|port| port.name));
        let allowed = near.map_or_else(|| "it has no outputs".to_owned(), |near| format!("did you mean {near}?"));
        let found = format!("the unknown output `{output}`");
        findings.push(Finding::error(Kind::UnknownOutput, *at, format!("{}.outputs", node.id), found, allowed));
    }
    for port in ports.inputs.iter().filter(|port| port.needed && port.message != TICK) {
        if !node.inputs.iter().any(|input| input.name == port.name) {
            let (subject, found) = (format!("{}.inputs", node.id), format!("no input `{}`", port.name));
            let allowed = format!("wanted: `{}: NODE/OUTPUT` with {} messages", port.name, port.message);
            findings.push(Finding::error(Kind::MissingKey, node.at, subject, found, allowed));
        }
    }
}

/// One input: its node, its output, its message.
fn edge(file: &File, node: &NodeEntry, input: &Input, findings: &mut Vec<Finding>) {
    let subject = format!("{}.inputs.{}", node.id, input.name);
    let wanted = node.program.and_then(|program| program.ports.input(&input.name)).map(|port| port.message);
    let mut wrong = |kind, found: String, allowed: String| {
        findings.push(Finding::error(kind, input.source_at, subject.clone(), found, allowed));
    };
    let (id, output) = match &input.source {
        Source::Timer => {
            if let Some(message) = wanted.filter(|message| *message != TICK) {
                wrong(Kind::EdgeType, "a timer".into(), format!("wanted: {message} messages"));
            }
            return;
        }
        Source::Node { id, output } => (id, output),
        Source::Dora | Source::Unreadable => return,
    };
    let Some(source) = file.node(id) else {
        let near = nearest(id, file.nodes.iter().map(|node| node.id.as_str())).unwrap_or_default();
        return wrong(Kind::UnknownNode, format!("the unknown node `{id}`"), format!("did you mean {near}?"));
    };
    // An output that the program does not have is said above, at its declaration.
    let known = source.program.map(|program| program.ports.output(output));
    if !source.outputs.iter().any(|(declared, _)| declared == output) {
        let near = nearest(output, source.outputs.iter().map(|(declared, _)| declared.as_str()));
        let allowed = match (near, known) {
            (_, Some(Some(_))) => format!("add `{output}` to the outputs of {id}"),
            (Some(near), _) => format!("did you mean {id}/{near}?"),
            (None, _) => format!("{id} declares no outputs"),
        };
        return wrong(Kind::UnknownOutput, format!("`{output}`, which {id} does not give"), allowed);
    }
    let (Some(wanted), Some(Some(given))) = (wanted, known) else { return };
    if wanted != given.message {
        let found = format!("{id}/{output}, which carries {}", given.message);
        let allowed = format!("wanted: {}", if wanted == TICK { "a timer" } else { wanted });
        wrong(Kind::EdgeType, found, allowed);
    }
}

/// Demand must come from the node that gets the data, and from nobody else: an answer goes to who asked. Where several nodes ask, each has
/// an output of its own. Programs that are not difflow's may take the data too: they look at it, or hand it on to who asked.
fn demand(file: &File, node: &NodeEntry, findings: &mut Vec<Finding>) {
    let Some(program) = node.program else { return };
    for input in &node.inputs {
        let (Some(rank), Source::Node { id: asker, .. }) = (rank_of(DEMAND, &input.name), &input.source) else {
            continue;
        };
        let own = |output: &str| {
            let ranked = program.ports.outputs.iter().find(|port| port.ranked);
            rank_of(DEMAND, output).is_none()
                && ranked.is_none_or(|port| rank_of(port.name, output).is_none_or(|found| found == rank))
        };
        let takes = |other: &NodeEntry| {
            let from =
                |input: &Input| matches!(&input.source, Source::Node { id, output } if *id == node.id && own(output));
            other.program.is_some() && other.inputs.iter().any(from)
        };
        let takers: BTreeSet<&str> =
            file.nodes.iter().filter(|other| takes(other)).map(|other| other.id.as_str()).collect();
        let wrong = takers.iter().any(|taker| taker != asker);
        if wrong && file.node(asker).is_some() {
            let takers: Vec<&str> = takers.into_iter().collect();
            let found = format!("demand from {asker}, while the data goes to {}", takers.join(" and "));
            let allowed = "wanted: demand from the one node that gets the data";
            let subject = format!("{}.inputs.{}", node.id, input.name);
            findings.push(Finding::error(Kind::Contradiction, input.source_at, subject, found, allowed));
        }
    }
}

/// A circle of edges. Demand runs against the data by design and closes none.
fn cycle(file: &File, findings: &mut Vec<Finding>) {
    // Nodes to which nothing leads, and nodes from which nothing leads on, are taken away until only circles and ways between them are left.
    let mut left: Vec<&NodeEntry> = file.nodes.iter().collect();
    loop {
        let before = left.len();
        let ids: BTreeSet<&str> = left.iter().map(|node| node.id.as_str()).collect();
        left.retain(|node| node.inputs.iter().any(|input| feeds(input, &ids)));
        let all = left.clone();
        left.retain(|node| {
            let own = BTreeSet::from([node.id.as_str()]);
            all.iter().any(|other| other.inputs.iter().any(|input| feeds(input, &own)))
        });
        if left.len() == before {
            break;
        }
    }
    let ids: BTreeSet<&str> = left.iter().map(|node| node.id.as_str()).collect();
    let Some(first) = left.first() else { return };
    if let Some(input) = first.inputs.iter().find(|input| feeds(input, &ids)) {
        let found = format!("a circle among {}", ids.iter().copied().collect::<Vec<_>>().join(", "));
        let subject = format!("{}.inputs.{}", first.id, input.name);
        findings.push(Finding::error(Kind::Cycle, input.source_at, subject, found, "wanted: data that flows one way"));
    }
}

fn feeds(input: &Input, ids: &BTreeSet<&str>) -> bool {
    matches!(&input.source, Source::Node { id, .. } if rank_of(DEMAND, &input.name).is_none() && ids.contains(id.as_str()))
}

/// A node fed by a timer keeps dora's watchdog quiet; the monitor is that node.
fn timer(file: &File, findings: &mut Vec<Finding>) {
    let timed = |node: &NodeEntry| node.inputs.iter().any(|input| input.source == Source::Timer);
    if file.nodes.is_empty() || file.nodes.iter().any(timed) {
        return;
    }
    let monitor =
        file.nodes.iter().find(|node| node.program.is_some_and(|program| program.ports.input(TICK).is_some()));
    let (at, subject) = match monitor {
        Some(monitor) => (monitor.at, format!("{}.inputs", monitor.id)),
        None => match file.nodes_at {
            Some(at) => (at, "nodes".to_owned()),
            None => return,
        },
    };
    let allowed = "wanted: one node with an input `tick: dora/timer/millis/1000`";
    findings.push(Finding::error(Kind::NoTimer, at, subject, "no node that a timer feeds", allowed));
}
