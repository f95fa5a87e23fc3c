//! The programs that are difflow's nodes: their keys, and what the keys mean in a dataflow file.

use std::ffi::OsString;
use std::process::ExitCode;

use difflow_node_kit::config::{self, Checked};
use difflow_node_kit::{Config, Problem};
use difflow_schema::ports::{PORTS, Ports};
use schemars::Schema;

/// The keys of a node, read.
#[derive(Debug, Clone)]
pub enum Settings {
    Corpus(difflow_corpus::config::Config),
    Tokenizer(difflow_tokenizer::config::Config),
    Noiser(difflow_noiser::config::Config),
    Trainer(Box<difflow_trainer::config::Config>),
    Checkpointer(difflow_checkpointer::config::Config),
    Sampler(Box<difflow_sampler::config::Config>),
    Evaluator(Box<difflow_evaluator::config::Config>),
    Monitor(difflow_monitor::config::Config),
    Server(difflow_server::config::Config),
}

/// Settings with all that is wrong with them.
pub struct Reading {
    pub settings: Settings,
    pub problems: Vec<Problem>,
    /// Keys that cannot be read: what the settings say of them is a default.
    pub unread: Vec<String>,
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A program.
pub struct Program {
    pub ports: &'static Ports,
    /// One sentence.
    pub what: &'static str,
    pub schema: fn() -> Schema,
    pub read: fn(&[String], Lookup) -> Reading,
    /// Runs it in this process; what `main` of the program calls.
    pub main: fn(Vec<OsString>) -> ExitCode,
}

fn read<C: Config>(own: &[String], lookup: Lookup, wrap: fn(C) -> Settings) -> Reading {
    let Checked { config, problems, unread } = config::check::<C>(own, lookup);
    Reading { settings: wrap(config), problems, unread }
}

macro_rules! program {
    ($number:literal, $what:literal, $node:ident, $wrap:expr) => {
        Program {
            ports: &PORTS[$number],
            what: $what,
            schema: config::schema::<$node::config::Config>,
            read: |own, lookup| read::<$node::config::Config>(own, lookup, $wrap),
            main: $node::main,
        }
    };
}

/// All of them, in the order of the data.
pub static PROGRAMS: [Program; 9] = [
    program!(0, "selects, filters, mixes and orders documents", difflow_corpus, Settings::Corpus),
    program!(1, "documents to packed sequences of token ids", difflow_tokenizer, Settings::Tokenizer),
    program!(2, "draws t and masks tokens under the noise schedule", difflow_noiser, Settings::Noiser),
    program!(3, "adapts the base model and writes checkpoints", difflow_trainer, |c| Settings::Trainer(Box::new(c))),
    program!(4, "verifies, publishes and prunes checkpoints", difflow_checkpointer, Settings::Checkpointer),
    program!(5, "lets each checkpoint write and fill gaps", difflow_sampler, |c| Settings::Sampler(Box::new(c))),
    program!(6, "scores each checkpoint on held-out text", difflow_evaluator, |c| Settings::Evaluator(Box::new(c))),
    program!(7, "shows progress, keeps metrics, writes the report", difflow_monitor, Settings::Monitor),
    program!(8, "serves the newest checkpoint over HTTP", difflow_server, Settings::Server),
];

/// The program at a path of a dataflow file; `None` when it is not one of difflow's.
pub fn program(path: &str) -> Option<&'static Program> {
    let ports = difflow_node_kit::dataflow::ports_of(path)?;
    PROGRAMS.iter().find(|program| program.ports.program == ports.program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers in the table are positions in another one.
    #[test]
    fn each_program_has_its_own_keys() {
        for (index, key) in [
            "SOURCES",
            "PACKING",
            "MIN_T",
            "LEARNING_RATE",
            "KEEP_LAST",
            "DECODER",
            "HELDOUT",
            "PROGRESS_SECONDS",
            "ANSWER_SECONDS",
        ]
        .iter()
        .enumerate()
        {
            let keys = config::keys(&(PROGRAMS[index].schema)());
            assert!(keys.iter().any(|(name, _)| name == key), "{} has no {key}", PROGRAMS[index].ports.program);
        }
    }
}
