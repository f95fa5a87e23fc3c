//! Selects, filters, mixes and orders the documents of the training corpus. See README.md.

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

use std::process::ExitCode;

use difflow_corpus::{config, source};
use difflow_node_kit::About;

use crate::config::Config;

fn main() -> ExitCode {
    let about = About {
        name: "difflow-corpus",
        what: "Selects, filters, mixes and orders documents with SQL over Parquet, JSONL, CSV and text files.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main::<Config>(about, run::run)
}
