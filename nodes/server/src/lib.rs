//! Text from a checkpoint over HTTP: see docs/SERVING.md.
//!
//! A request is read and turned into texts with gaps (`plan`), each of which waits in the [`queue`] for its turn. One thread (`worker`)
//! has the model: between two forwards texts join its batch and leave it. What each forward reveals goes back to the request, which turns
//! it into text (`writer`) and the answer that its route promises (`routes`).

pub mod config;

mod answer;
mod chat;
mod error;
mod fields;
mod frame;
mod infill;
mod logprobs;
mod metrics;
mod model;
mod openapi;
mod page;
mod plan;
mod queue;
mod routes;
mod run;
mod running;
mod server;
mod settings;
mod stream;
mod tokens;
mod worker;
mod writer;

use std::ffi::OsString;
use std::process::ExitCode;

use difflow_node_kit::About;

pub use server::{Server, ServerError};
pub use settings::{Limits, Settings};

/// Runs the program with the words of its command line, without its own name. Returns the exit code.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let about = About {
        name: env!("CARGO_PKG_NAME"),
        what: "Serves the newest published checkpoint over HTTP.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, words, run::run)
}
