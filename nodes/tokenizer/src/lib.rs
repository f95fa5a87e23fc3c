//! The node, see README.md: its program, and its keys for `difflow validate`, which checks a dataflow file against them.

pub mod config;
pub mod packing;
pub mod special_tokens;

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

use std::ffi::OsString;
use std::process::ExitCode;

use difflow_node_kit::About;

/// Runs the program with the words of its command line, without its own name. Returns the exit code.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let about = About {
        name: env!("CARGO_PKG_NAME"),
        what: "Turns documents into packed sequences of token ids, keeps them on disk and serves them in shuffled order.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, words, run::run)
}
