//! The node, see README.md: its program, and its keys for `difflow validate`, which checks a dataflow file against them.

pub mod config;
pub mod source;

mod batches;
mod corpus;
mod corpus_files;
mod document;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod document_tests;
mod heldout;
mod mix;
mod query;
mod run;
mod transformed;

use std::ffi::OsString;
use std::process::ExitCode;

use difflow_node_kit::About;

pub use corpus_files::identities;

/// Runs the program with the words of its command line, without its own name. Returns the exit code.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let about = About {
        name: env!("CARGO_PKG_NAME"),
        what: "Selects, filters, mixes and orders documents with SQL over Parquet, JSONL, CSV and text files, here or in object stores.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, words, run::run)
}
