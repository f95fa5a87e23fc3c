//! Rules across nodes and across keys.

use difflow_schema::ports::{SENT_ONCE, TICK};
use serde_json::Value;

use crate::dataflow::{File, Finding, Input, Kind, Level, NodeEntry, Settings, Source};
use crate::validate::keys::Node;

/// dora's queue where the dataflow file says nothing.
const QUEUE: u64 = 10;
/// The policy of a queue under which dora drops nothing.
const RELIABLE: &str = "backpressure";
/// Batches of documents that the tokenizer asks for at once.
const DOCUMENTS_ASKED: u64 = 2;
/// Seconds that a node needs to end: a checkpoint is written, texts are finished.
const GRACE: f64 = 60.0;

/// Keys that must have one value in all nodes that have them, and what else would happen. What one node alone decides is no key of
/// another: it travels with the data and the checkpoints.
const AGREE: [(&str, Level, &str); 4] = [
    ("RUN", Level::Error, "checkpoints would be looked for in another run"),
    ("RUNS", Level::Error, "checkpoints would be looked for in another folder"),
    ("BASE_MODEL", Level::Error, "the vocabulary would be another one"),
    ("PRESET", Level::Warning, "half of a preset is neither of the two"),
];

/// Checks all of them.
pub fn check(file: &File, nodes: &[Node], findings: &mut Vec<Finding>) {
    agree(nodes, findings);
    queues(file, nodes, findings);
    sent_once(file, findings);
    trainer(nodes, findings);
    ranks(nodes, findings);
    blocks(nodes, findings);
    graces(nodes, findings);
    heldout(nodes, findings);
    conversations(nodes, findings);
    let timed = file.nodes.iter().any(|node| node.inputs.iter().any(|input| input.source == Source::Timer));
    if let (true, false, Some(at)) = (timed, file.exits == Some(true), file.nodes_at) {
        let found = "no `exit_when_nodes_finish: true`";
        let allowed = "wanted: it above `nodes`, or the timer keeps dora waiting when all nodes have ended";
        findings.push(Finding::error(Kind::MissingKey, at, "the dataflow", found, allowed).warning());
    }
    for node in nodes.iter().filter(|node| matches!(node.settings, Settings::Monitor(_))) {
        let ticks = node.entry.inputs.iter().any(|input| input.name == TICK);
        let messages = node.entry.inputs.iter().filter(|input| input.name != TICK).count();
        let elsewhere = timed && !ticks;
        if elsewhere {
            let allowed = "wanted: `tick: dora/timer/millis/1000`";
            let subject = format!("{}.inputs", node.entry.id);
            findings.push(Finding::error(
                Kind::MissingKey,
                node.entry.at,
                subject,
                "a monitor without a tick",
                allowed,
            ));
        }
        if messages == 0 {
            let allowed = "wanted: at least one of training, preview, scores, samples, sampling";
            let subject = format!("{}.inputs", node.entry.id);
            findings.push(Finding::error(Kind::MissingKey, node.entry.at, subject, "nothing to monitor", allowed));
        }
    }
}

fn agree(nodes: &[Node], findings: &mut Vec<Finding>) {
    let values: Vec<Value> = nodes.iter().map(Node::values).collect();
    for (key, level, otherwise) in AGREE {
        let has = |(node, values): &(&Node, &Value)| node.read(key) && values.get(key).is_some();
        // Trainer and noiser are what the others follow.
        let all: Vec<(&Node, &Value)> = nodes.iter().zip(&values).filter(has).collect();
        let leads = |node: &Node| matches!(node.settings, Settings::Trainer(_) | Settings::Noiser(_));
        let Some((lead, wanted)) = all.iter().find(|(node, _)| leads(node)).or(all.first()) else { continue };
        let wanted = &wanted[key];
        for (node, value) in &all {
            let value = &value[key];
            if value == wanted {
                continue;
            }
            // Where a node has a value of its own: that is what makes them differ.
            let odd = if node.entry.env.contains_key(key) || !lead.entry.env.contains_key(key) { node } else { lead };
            let found = format!("{value} for {}, {wanted} for {}", node.entry.id, lead.entry.id);
            let allowed = format!("wanted: one value; {otherwise}");
            let finding = Finding::error(Kind::Contradiction, odd.place(key), odd.subject(key), found, allowed);
            findings.push(if level == Level::Warning { finding.warning() } else { finding });
        }
    }
}

/// What may be under way on an edge must fit into its queue, or dora drops messages.
fn queues(file: &File, nodes: &[Node], findings: &mut Vec<Finding>) {
    let mut fits = |node: &NodeEntry, input: &Input, window: u64, why: &str| {
        let size = input.queue_size.unwrap_or(QUEUE);
        if size <= window {
            let found = format!("a queue of {size} for {window} batches under way ({why})");
            let subject = format!("{}.inputs.{}", node.id, input.name);
            let allowed = format!("wanted: `queue_size: {}` or more", window + 1);
            findings.push(Finding::error(Kind::Contradiction, input.source_at, subject, found, allowed));
        }
    };
    let input = |node: &'_ NodeEntry, name: &str| node.inputs.iter().position(|input| input.name == name);
    for node in nodes {
        match &node.settings {
            Settings::Trainer(config) if node.read("PREFETCH") => {
                let window = u64::from(config.prefetch);
                let all = ranks_of(node, nodes).len() as u64;
                let why = format!("PREFETCH {} of {}", config.prefetch, node.entry.id);
                let Some(index) = input(node.entry, "noised") else { continue };
                let noised = &node.entry.inputs[index];
                fits(node.entry, noised, window, &why);
                // The noiser hands demand on as it is.
                let Source::Node { id, .. } = &noised.source else { continue };
                let Some(noiser) = file.node(id) else { continue };
                if let Some(index) = input(noiser, "sequences") {
                    let why = if all > 1 { format!("PREFETCH {} of {all} ranks", config.prefetch) } else { why };
                    fits(noiser, &noiser.inputs[index], window * all, &why);
                }
            }
            Settings::Tokenizer(_) => {
                if let Some(index) = input(node.entry, "documents") {
                    let why = format!("what {} asks for", node.entry.id);
                    fits(node.entry, &node.entry.inputs[index], DOCUMENTS_ASKED, &why);
                }
            }
            _ => {}
        }
    }
}

/// What is sent once must arrive: a run without it has gaps in its curves, and checkpoints that nobody scored.
fn sent_once(file: &File, findings: &mut Vec<Finding>) {
    for node in &file.nodes {
        let Some(ports) = node.program.map(|program| program.ports) else { continue };
        for input in &node.inputs {
            let once = ports.input(&input.name).is_some_and(|port| SENT_ONCE.contains(&port.message));
            if once && input.queue_policy.as_deref() != Some(RELIABLE) {
                let subject = format!("{}.inputs.{}", node.id, input.name);
                let found = format!("no `queue_policy: {RELIABLE}`");
                let allowed = "wanted: it beside `source`, or dora may drop these messages on a busy machine";
                findings.push(Finding::error(Kind::MissingKey, input.source_at, subject, found, allowed).warning());
            }
        }
    }
}

fn trainer(nodes: &[Node], findings: &mut Vec<Finding>) {
    let keeps = nodes.iter().find_map(|node| match &node.settings {
        Settings::Checkpointer(config) if node.read("KEEP_EVERY") => Some((node, config.keep_every)),
        _ => None,
    });
    for node in nodes {
        let Settings::Trainer(config) = &node.settings else { continue };
        let mut warn = |key: &str, found: String, allowed: &str| {
            let finding = Finding::error(Kind::Contradiction, node.place(key), node.subject(key), found, allowed);
            findings.push(finding.warning());
        };
        let steps = node.read("STEPS").then_some(config.steps);
        // Of block diffusion only rows that are not cut anneal.
        let whole = nodes
            .iter()
            .any(|node| matches!(&node.settings, Settings::Noiser(noiser) if noiser.block_size.contains("row")));
        let diffusion = match config.objective {
            difflow_trainer::config::ObjectiveKind::Diffusion => true,
            difflow_trainer::config::ObjectiveKind::Block => whole,
            difflow_trainer::config::ObjectiveKind::Ar => false,
        };
        let own_steps = config.annealing_schedule_config.contains("anneal_steps");
        let anneals = diffusion && !own_steps && config.annealing_schedule != "none";
        let anneal_steps = config.anneal_steps();
        if let Some(steps) = steps.filter(|steps| anneals && node.read("ANNEAL_STEPS") && anneal_steps > *steps) {
            let found = format!("ANNEAL_STEPS {anneal_steps} in a run of STEPS {steps}");
            warn(
                "ANNEAL_STEPS",
                found,
                "wanted: less than STEPS, or attention is never full and the model is used as it was never trained",
            );
        }
        if let Some(steps) = steps.filter(|steps| node.read("CHECKPOINT_EVERY") && config.checkpoint_every > *steps) {
            let found = format!("CHECKPOINT_EVERY {} in a run of STEPS {steps}", config.checkpoint_every);
            warn("CHECKPOINT_EVERY", found, "wanted: at most STEPS; else there are two checkpoints, before and after");
        }
        let wsd = config.decay == difflow_trainer::config::DecayKind::Wsd;
        if let Some(steps) = steps.filter(|steps| wsd && node.read("DECAY_STEPS") && config.decay_steps > *steps) {
            let found = format!("DECAY_STEPS {} in a run of STEPS {steps}", config.decay_steps);
            warn("DECAY_STEPS", found, "wanted: at most STEPS");
        }
        if let Some((keeper, every)) = keeps.filter(|(_, every)| *every > 0 && *every % config.checkpoint_every != 0)
            && node.read("CHECKPOINT_EVERY")
        {
            let found = format!("KEEP_EVERY {every}, with a checkpoint every {} steps", config.checkpoint_every);
            let allowed = "wanted: a multiple of CHECKPOINT_EVERY, or checkpoints are kept seldom or never";
            let (at, subject) = (keeper.place("KEEP_EVERY"), keeper.subject("KEEP_EVERY"));
            findings.push(Finding::error(Kind::Contradiction, at, subject, found, allowed).warning());
        }
    }
}

/// The trainers that get their batches from the noiser of this one, in the order of the file: the ranks.
fn ranks_of<'a>(trainer: &Node, nodes: &'a [Node<'a>]) -> Vec<&'a Node<'a>> {
    let from = |node: &Node| {
        let noised = node.entry.inputs.iter().find(|input| input.name == "noised")?;
        if let Source::Node { id, .. } = &noised.source { Some(id.clone()) } else { None }
    };
    let own = from(trainer);
    let same = |node: &&Node| matches!(node.settings, Settings::Trainer(_)) && own.is_some() && from(node) == own;
    nodes.iter().filter(same).collect()
}

/// Trainers of one noiser train one model: with the same keys, and each with its whole part of a step.
fn ranks(nodes: &[Node], findings: &mut Vec<Finding>) {
    for node in nodes {
        let Settings::Trainer(first) = &node.settings else { continue };
        let ranks = ranks_of(node, nodes);
        if ranks.len() < 2 || ranks[0].entry.id != node.entry.id {
            continue;
        }
        let count = ranks.len() as u64;
        let allowed = first.allowed_ranks();
        let wrong = |node: &Node, key: &str, found: String, allowed: String| {
            Finding::error(Kind::Contradiction, node.place(key), node.subject(key), found, allowed)
        };
        if node.read("ACCUMULATION") && !allowed.contains(&count) {
            let numbers: Vec<String> = allowed.iter().map(u64::to_string).collect();
            let found = format!("{} on {count} ranks", first.accumulation);
            let allowed = format!("wanted: as many ranks as one of {}", numbers.join(", "));
            findings.push(wrong(node, "ACCUMULATION", found, allowed));
        }
        for difflow_node_kit::Problem { key, found, allowed, .. } in first.unshared() {
            findings.push(wrong(node, &key, found, allowed));
        }
        let values = node.values();
        for rank in &ranks[1..] {
            let own = rank.values();
            let differs = own.as_object().into_iter().flatten().filter(|(key, value)| values[key.as_str()] != **value);
            findings.extend(differs.map(|(key, value)| {
                let found = format!("{value} for {}, {} for {}", rank.entry.id, values[key], node.entry.id);
                wrong(rank, key, found, "wanted: one value for all ranks".to_owned())
            }));
        }
        let cores = std::thread::available_parallelism().map_or(u64::MAX, |cores| cores.get() as u64);
        let here = ranks.iter().filter(|rank| !rank.entry.placed).count() as u64;
        if here * first.threads as u64 > cores {
            let found = format!("{} on {here} ranks of this machine", first.threads);
            let allowed = format!("wanted: together at most its {cores} cores, or each waits for the others");
            findings.push(wrong(node, "THREADS", found, allowed).warning());
        }
        if ranks.iter().any(|rank| rank.entry.placed) && first.rendezvous == "auto" {
            let found = "auto with ranks on named machines".to_owned();
            let allowed = "wanted: HOST:PORT of the machine of rank 0, unless all of them are one".to_owned();
            findings.push(wrong(node, "RENDEZVOUS", found, allowed).warning());
        }
    }
}

/// Block diffusion is trained on rows that are cut into blocks, and only it is.
fn blocks(nodes: &[Node], findings: &mut Vec<Finding>) {
    let trainer = nodes.iter().find_map(|node| match &node.settings {
        Settings::Trainer(config) if node.read("OBJECTIVE") => Some((node, config.objective)),
        _ => None,
    });
    let noiser = nodes.iter().find_map(|node| match &node.settings {
        Settings::Noiser(config) if node.read("BLOCK_SIZE") => Some((node, &config.block_size)),
        _ => None,
    });
    let (Some((trainer, objective)), Some((noiser, block))) = (trainer, noiser) else { return };
    let trains = objective == difflow_trainer::config::ObjectiveKind::Block;
    let (node, key, found, allowed) = if trains && block.is_empty() {
        let found = "no BLOCK_SIZE with OBJECTIVE: block".to_owned();
        (noiser, "BLOCK_SIZE", found, "wanted: the size of the blocks, such as `BLOCK_SIZE: 4`")
    } else if !trains && !block.is_empty() {
        let found = format!("BLOCK_SIZE {block} for {}", noiser.entry.id);
        (trainer, "OBJECTIVE", found, "wanted: `OBJECTIVE: block`, or no BLOCK_SIZE")
    } else {
        return;
    };
    findings.push(Finding::error(Kind::Contradiction, node.place(key), node.subject(key), found, allowed));
}

/// Documents that are split off the corpus are for the evaluator.
fn heldout(nodes: &[Node], findings: &mut Vec<Finding>) {
    let own = |node: &Node| node.entry.env.get("HELDOUT").is_some_and(|value| !value.text.is_empty());
    let scored = nodes.iter().any(|node| matches!(node.settings, Settings::Evaluator(_)) && own(node));
    for node in nodes {
        let Settings::Corpus(config) = &node.settings else { continue };
        if scored && config.heldout.is_none() && config.heldout_documents > 0 {
            let found = "documents that are split off the corpus, and an evaluator with a HELDOUT of its own";
            let allowed = "wanted: HELDOUT for the corpus (it hands it on to the evaluator), or HELDOUT_DOCUMENTS: 0";
            let (at, subject) = (node.place("HELDOUT"), node.subject("HELDOUT"));
            findings.push(Finding::error(Kind::Contradiction, at, subject, found, allowed).warning());
        }
    }
}

/// What becomes of conversations is the tokenizer's affair; that they are ones, the corpus says.
fn conversations(nodes: &[Node], findings: &mut Vec<Finding>) {
    let are = |node: &Node| matches!(&node.settings, Settings::Corpus(config) if config.conversations());
    if !nodes.iter().any(are) {
        return;
    }
    let mut contradiction = |node: &Node, key: &str, found: String, allowed: String| {
        findings.push(Finding::error(Kind::Contradiction, node.place(key), node.subject(key), found, allowed));
    };
    let mut packed = false;
    for node in nodes {
        let Settings::Tokenizer(config) = &node.settings else { continue };
        for problem in config.of_conversations() {
            contradiction(node, &problem.key, problem.found, problem.allowed);
        }
        packed |= config.several_conversations_a_row();
    }
    for node in nodes {
        let Settings::Trainer(config) = &node.settings else { continue };
        if packed && !config.choices().document_attention {
            let found = "false with several conversations in a row".to_owned();
            let allowed = "wanted: true, or PACKING: one for the tokenizer".to_owned();
            contradiction(node, "DOCUMENT_ATTENTION", found, allowed);
        }
    }
}

/// dora kills a node soon after its inputs ended, unless the file gives it time.
fn graces(nodes: &[Node], findings: &mut Vec<Finding>) {
    for node in nodes {
        if matches!(node.settings, Settings::Corpus(_) | Settings::Tokenizer(_) | Settings::Noiser(_)) {
            continue;
        }
        if node.entry.finish_grace.is_none_or(|seconds| seconds < GRACE) {
            let found = node
                .entry
                .finish_grace
                .map_or_else(|| "no `finish_grace_secs`".to_owned(), |s| format!("`finish_grace_secs: {s}`"));
            let allowed = format!(
                "wanted: `finish_grace_secs: 600` (at least {GRACE}), or dora may end it in the middle of its last work"
            );
            let subject = node.entry.id.clone();
            findings.push(Finding::error(Kind::MissingKey, node.entry.at, subject, found, allowed).warning());
        }
    }
}
