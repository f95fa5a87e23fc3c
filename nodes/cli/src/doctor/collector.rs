//! The node that asks all machines of a cluster, and prints what they answer: dora brings its lines to the command, wherever that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use difflow_node_kit::{Event, Node};
use eyre::Result;
use serde::{Deserialize, Serialize};

use crate::doctor::network::Opened;
use crate::doctor::outline::answer_of;
use crate::doctor::words::{Answer, Answered, Ask, Clock, Heard, Words, now};

/// What the lines begin with.
pub const MARK: &str = "difflow-doctor ";
/// How often the clocks are asked: the shortest round trip counts.
const CLOCKS: usize = 5;
/// How long the first answer of a machine may take: a daemon that was just started is found by the others after some seconds.
const FIRST: Duration = Duration::from_secs(30);
/// How long the others are waited for when clocks are asked.
const SHORT: Duration = Duration::from_secs(2);
/// After this time without an answer it is asked again: messages may be lost until the daemons have found each other.
const AGAIN: Duration = Duration::from_secs(1);

/// What the collector is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Collect {
    /// In the order of the probes.
    pub machines: Vec<String>,
    pub seconds: u64,
}

struct Collector<'a> {
    node: &'a mut Node,
    machines: &'a [String],
    /// Machines whose probe has ended.
    gone: BTreeSet<String>,
    /// When each message was sent: as the clock says, and for the time that passes.
    sent: Vec<(f64, Instant)>,
    end: Instant,
}

/// Asks all of them.
///
/// # Errors
/// When a message cannot be read or sent.
pub fn run(node: &mut Node, Collect { machines, seconds }: &Collect) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(*seconds);
    let mut collector = Collector { node, machines, gone: BTreeSet::new(), sent: Vec::new(), end };
    let mut opened = BTreeMap::<String, Opened>::new();
    collector.ask(&Ask::Open, machines, FIRST, |machine, answer, _| {
        let Answered::Open(found) = answer else { return Ok(false) };
        opened.insert(machine.to_owned(), found);
        Ok(true)
    })?;
    let near: Vec<String> = opened.keys().cloned().collect();
    let mut clocks = BTreeMap::<String, Clock>::new();
    for _ in 0..CLOCKS {
        collector.ask(&Ask::Clock, &near, SHORT, |machine, answer, (wall, began)| {
            let Answered::Clock(found) = answer else { return Ok(false) };
            let within = began.elapsed().as_secs_f64() / 2.0;
            let clock = Clock { ahead: found - wall - within, within };
            let best = clocks.entry(machine.to_owned()).or_insert(clock);
            if within < best.within {
                *best = clock;
            }
            Ok(true)
        })?;
    }
    collector.ask(&Ask::Look(opened), machines, Duration::from_secs(*seconds), |machine, answer, _| {
        let Answered::Look(report) = answer else { return Ok(false) };
        let heard = Heard { machine: machine.to_owned(), clock: clocks.get(machine).copied(), report };
        println!("{MARK}{}", serde_json::to_string(&heard)?);
        Ok(true)
    })
}

impl Collector<'_> {
    /// Asks all, and again after a while, until each of `whom` has answered in a way that `take` wants, or `patience` is over.
    fn ask(
        &mut self,
        ask: &Ask,
        whom: &[String],
        patience: Duration,
        mut take: impl FnMut(&str, Answered, (f64, Instant)) -> Result<bool>,
    ) -> Result<()> {
        let text = serde_json::to_string(ask)?;
        let mut waiting: BTreeSet<String> = whom.iter().cloned().collect();
        let until = self.end.min(Instant::now() + patience);
        let mut again = Instant::now();
        while waiting.iter().any(|machine| !self.gone.contains(machine)) && Instant::now() < until {
            if Instant::now() >= again {
                self.sent.push((now(), Instant::now()));
                self.node.send("ask", self.sent.len() as u64 - 1, &Words(text.clone()))?;
                again = Instant::now() + AGAIN;
            }
            match self.node.next(Some(again.saturating_duration_since(Instant::now())))? {
                Event::Message(message) => {
                    let Words(text) = message.read()?;
                    let Answer { to, what } = serde_json::from_str(&text)?;
                    let sent = self.sent.get(to as usize).copied();
                    let machine = self.machines.iter().enumerate().find(|(i, _)| answer_of(*i) == message.input);
                    if let (Some((_, machine)), Some(sent)) = (machine, sent)
                        && waiting.contains(machine)
                        && take(machine, what, sent)?
                    {
                        waiting.remove(machine);
                    }
                }
                Event::Closed(input) => {
                    let gone = (0..self.machines.len()).filter(|i| answer_of(*i) == input);
                    self.gone.extend(gone.map(|i| self.machines[i].clone()));
                }
                Event::Stop { .. } => self.end = Instant::now(),
                Event::Failed { .. } | Event::Tick | Event::Timeout => {}
            }
            if self.end <= Instant::now() {
                break;
            }
        }
        Ok(())
    }
}
