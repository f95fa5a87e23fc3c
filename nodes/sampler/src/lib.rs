//! The node, see README.md: its program, and its keys for `difflow validate`, which checks a dataflow file against them.

pub mod config;

mod run;
mod sampling;

use std::ffi::OsString;
use std::process::ExitCode;

use difflow_node_kit::About;

/// Runs the program with the words of its command line, without its own name. Returns the exit code.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let about = About {
        name: env!("CARGO_PKG_NAME"),
        what: "Lets each published checkpoint write and fill in texts, and checks them.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, words, run::run)
}
