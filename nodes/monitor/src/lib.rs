//! The node, see README.md: its program, and its keys for `difflow validate`, which checks a dataflow file against them.

pub mod config;

mod charts;
mod curves;
mod figures;
mod files;
mod format;
mod health;
mod history;
mod inputs;
mod origin;
mod page;
mod processes;
mod progress;
mod report;
mod run;
mod screen;
mod series;
mod show;
mod store;
mod tensorboard;

use std::ffi::OsString;
use std::process::ExitCode;

use difflow_node_kit::About;

/// Runs the program with the words of its command line, without its own name. Returns the exit code.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let about = About {
        name: env!("CARGO_PKG_NAME"),
        what: "Shows a run's progress, keeps its metrics and samples, and writes its report.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, words, run::run)
}
