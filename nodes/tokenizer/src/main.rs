//! Turns documents into packed sequences of token ids, stored on disk. See README.md.

mod build;
mod examples;
mod key;
mod lengths;
mod open_end;
mod order;
mod run;
mod sequencer;
mod store;
mod store_writer;
mod words;

use std::process::ExitCode;

use difflow_node_kit::About;
use difflow_tokenizer::{config, packing, special_tokens};

use crate::config::Config;

fn main() -> ExitCode {
    let about = About {
        name: "difflow-tokenizer",
        what: "Turns documents into packed sequences of token ids, keeps them on disk and serves them in shuffled order.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main::<Config>(about, run::run)
}
