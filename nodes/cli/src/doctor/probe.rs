//! `difflow probe`: a node of the dataflow by which a cluster is looked at. On each machine one answers, and on the first one asks.

use std::path::PathBuf;

use difflow_node_kit::{Event, Node};
use eyre::{Context, Result, eyre};
use serde::{Deserialize, Serialize};

use crate::doctor::collector::{self, Collect};
use crate::doctor::network::{self, Opened};
use crate::doctor::report::{Places, Report};
use crate::doctor::words::{Answer, Answered, Ask, Words, now};

/// The key in the `env:` of these nodes: a [`Task`] as JSON.
pub const TASK: &str = "PROBE";

/// What a node of the look is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    Answer(Question),
    Collect(Collect),
}

/// What is asked of a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub machine: String,
    /// The program whose bytes are compared.
    pub trainer: PathBuf,
    /// The address at which ranks meet, where there is one.
    pub rendezvous: Option<String>,
    /// Whether rank 0 will be on this machine.
    pub leads: bool,
    pub places: Option<Places>,
}

/// Runs until all is asked and answered.
///
/// # Errors
/// When it is no node of a dataflow, or a message cannot be read or sent.
pub fn run() -> Result<u8> {
    let mut node = Node::connect()?;
    let (own, _) = node.keys()?;
    let task = own.get(TASK).ok_or_else(|| eyre!("there is no {TASK}: `difflow doctor --cluster` starts this"))?;
    match serde_json::from_str(task).with_context(|| format!("{TASK}: another difflow's?"))? {
        Task::Answer(question) => answer(&mut node, &question)?,
        Task::Collect(collect) => collector::run(&mut node, &collect)?,
    }
    Ok(0)
}

fn answer(node: &mut Node, question: &Question) -> Result<()> {
    let start = node.start();
    // Only a probe of this very look, on the right machine, says it.
    let word = |machine: &str| format!("difflow {start} {machine}");
    let Question { machine, trainer, rendezvous, leads, places } = question;
    let (mut opened, mut report): (Option<Opened>, Option<Box<Report>>) = (None, None);
    let mut sent = 0;
    loop {
        let message = match node.next(None)? {
            Event::Message(message) => message,
            Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(()),
            Event::Tick | Event::Timeout => continue,
        };
        let Words(ask) = message.read()?;
        // A question comes again when an answer was late or lost.
        let what = match serde_json::from_str(&ask)? {
            Ask::Clock => Answered::Clock(now()),
            Ask::Open => Answered::Open(
                opened
                    .get_or_insert_with(|| {
                        let opened = rendezvous.as_ref().map(|at| network::open(at, *leads, &word(machine)));
                        opened.unwrap_or_default()
                    })
                    .clone(),
            ),
            Ask::Look(all) => Answered::Look(
                report
                    .get_or_insert_with(|| {
                        let reached = rendezvous.as_ref().map(|at| network::reach(at, machine, &all, word));
                        let (opened, reached) = (opened.clone().unwrap_or_default(), reached.unwrap_or_default());
                        Box::new(Report::of(trainer, places.as_ref(), opened, reached))
                    })
                    .clone(),
            ),
        };
        let answer = serde_json::to_string(&Answer { to: message.seq, what })?;
        node.send("answer", sent, &Words(answer))?;
        sent += 1;
    }
}
