//! Which messages each node accepts and sends: the contract of the edges, for checking a dataflow file and for
//! docs/EDGES.md.

use arrow::datatypes::Fields;

use crate::{Checkpoint, Demand, Documents, Message, Metrics, Noised, Preview, Samples, Sequences};

/// An input or an output of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its name in the dataflow file.
    pub name: &'static str,
    /// The message on it ([`Message::NAME`]), or [`TICK`].
    pub message: &'static str,
    /// Inputs: true when the node cannot work without it.
    pub needed: bool,
    /// True when there is one for each rank: `NAME` for the first, then `NAME-1`, `NAME-2`, ….
    pub ranked: bool,
}

impl Port {
    fn is(&self, name: &str) -> bool {
        name == self.name || (self.ranked && name.strip_prefix(self.name).is_some_and(|rest| suffix(rest).is_some()))
    }
}

/// The rank behind a port's name: 3 of `-3`.
fn suffix(text: &str) -> Option<usize> {
    let digits = text.strip_prefix('-')?;
    digits.parse().ok().filter(|rank: &usize| *rank > 0 && rank.to_string() == digits)
}

/// Returns the name of a port that each rank has, for one of them.
pub fn of_rank(name: &str, rank: usize) -> String {
    if rank == 0 { name.to_owned() } else { format!("{name}-{rank}") }
}

/// Returns the rank of which `found` is port `name`.
pub fn rank_of(name: &str, found: &str) -> Option<usize> {
    if found == name { Some(0) } else { suffix(found.strip_prefix(name)?) }
}

/// The messages that are sent once and not requested again. Their inputs need `queue_policy: backpressure`: dora then sends them through
/// its daemon, while on the direct way between nodes it drops messages when the machine is busy.
pub const SENT_ONCE: [&str; 3] = [Checkpoint::NAME, Metrics::NAME, Samples::NAME];

/// The message of a timer input.
pub const TICK: &str = "tick";

/// The ports of one program.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The program, for example `difflow-trainer`.
    pub program: &'static str,
    /// What it takes.
    pub inputs: &'static [Port],
    /// What it gives.
    pub outputs: &'static [Port],
}

impl Ports {
    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&'static Port> {
        self.inputs.iter().find(|port| port.is(name))
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&'static Port> {
        self.outputs.iter().find(|port| port.is(name))
    }
}

const fn needed(name: &'static str, message: &'static str) -> Port {
    Port { name, message, needed: true, ranked: false }
}

const fn optional(name: &'static str, message: &'static str) -> Port {
    Port { name, message, needed: false, ranked: false }
}

const fn ranked(port: Port) -> Port {
    Port { ranked: true, ..port }
}

/// Every program of difflow that is a node.
pub const PORTS: [Ports; 9] = [
    Ports {
        program: "difflow-corpus",
        inputs: &[needed("demand", Demand::NAME)],
        outputs: &[optional("documents", Documents::NAME)],
    },
    Ports {
        program: "difflow-tokenizer",
        inputs: &[needed("documents", Documents::NAME), needed("demand", Demand::NAME)],
        outputs: &[optional("sequences", Sequences::NAME), optional("demand", Demand::NAME)],
    },
    Ports {
        program: "difflow-noiser",
        inputs: &[needed("sequences", Sequences::NAME), ranked(needed("demand", Demand::NAME))],
        outputs: &[ranked(optional("noised", Noised::NAME)), optional("demand", Demand::NAME)],
    },
    Ports {
        program: "difflow-trainer",
        inputs: &[needed("noised", Noised::NAME)],
        outputs: &[
            optional("demand", Demand::NAME),
            optional("checkpoint", Checkpoint::NAME),
            optional("metrics", Metrics::NAME),
            optional("preview", Preview::NAME),
        ],
    },
    Ports {
        program: "difflow-checkpointer",
        inputs: &[needed("checkpoint", Checkpoint::NAME)],
        outputs: &[optional("published", Checkpoint::NAME)],
    },
    Ports {
        program: "difflow-sampler",
        inputs: &[needed("published", Checkpoint::NAME)],
        outputs: &[optional("samples", Samples::NAME), optional("scores", Metrics::NAME)],
    },
    Ports {
        program: "difflow-evaluator",
        inputs: &[needed("published", Checkpoint::NAME)],
        outputs: &[optional("scores", Metrics::NAME)],
    },
    Ports {
        program: "difflow-monitor",
        inputs: &[
            needed("tick", TICK),
            optional("training", Metrics::NAME),
            optional("preview", Preview::NAME),
            optional("scores", Metrics::NAME),
            optional("samples", Samples::NAME),
            optional("sampling", Metrics::NAME),
        ],
        outputs: &[],
    },
    Ports { program: "difflow-server", inputs: &[needed("published", Checkpoint::NAME)], outputs: &[] },
];

/// A kind of message, for documentation and for dora's types.
#[derive(Debug, Clone)]
pub struct Kind {
    /// [`Message::NAME`].
    pub name: &'static str,
    /// Its name among dora's types.
    pub type_name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Its columns.
    pub fields: Fields,
}

impl Kind {
    fn of<M: Message>(type_name: &'static str, what: &'static str) -> Self {
        Self { name: M::NAME, type_name, what, fields: M::fields() }
    }

    /// Its name in `output_types` and `input_types` of a dataflow file.
    pub fn urn(&self) -> String {
        format!("difflow/v1/{}", self.type_name)
    }
}

/// Every kind of message, in the order in which a run meets them.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::of::<Demand>("Demand", "\"Send batches next_seq to next_seq + count − 1.\" Asking again gives the same."),
        Kind::of::<Documents>("Documents", "Some documents of the corpus, in order."),
        Kind::of::<Sequences>("Sequences", "A micro-batch of packed sequences, one row each."),
        Kind::of::<Noised>(
            "Noised",
            "A micro-batch with its noise: what is masked, and t and loss weight, one of each row or one of each position.",
        ),
        Kind::of::<Checkpoint>("Checkpoint", "A checkpoint folder on disk: one row. Weights never travel on an edge."),
        Kind::of::<Metrics>("Metrics", "Named numbers of a step."),
        Kind::of::<Preview>("Preview", "A row of the batch at hand and the attention pattern of its step, to look at."),
        Kind::of::<Samples>("Samples", "Generated texts with their verdicts."),
    ]
}

/// The kind of a message by its name.
pub fn kind(message: &str) -> Option<Kind> {
    kinds().into_iter().find(|kind| kind.name == message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message that no table knows would be an edge that nothing checks.
    #[test]
    fn every_port_carries_a_message_that_is_known() {
        for ports in PORTS {
            for port in ports.inputs.iter().chain(ports.outputs) {
                assert!(port.message == TICK || kind(port.message).is_some(), "{} {}", ports.program, port.name);
            }
        }
        assert_eq!(kinds().len(), 8);
    }

    #[test]
    fn each_rank_has_a_port_of_its_own() {
        let noiser = PORTS[2];
        assert_eq!(noiser.output("noised-3").map(|port| port.message), Some(Noised::NAME));
        for wrong in ["noised-0", "noised-03", "noised-", "noised-x", "noised1", "demand-1"] {
            assert_eq!(noiser.output(wrong), None, "{wrong}");
        }
        assert!(noiser.input("demand-1").is_some() && noiser.input("sequences-1").is_none());
        assert_eq!((of_rank("noised", 0), of_rank("noised", 2)), ("noised".to_owned(), "noised-2".to_owned()));
        assert_eq!((rank_of("demand", "demand"), rank_of("demand", "demand-2")), (Some(0), Some(2)));
    }
}
