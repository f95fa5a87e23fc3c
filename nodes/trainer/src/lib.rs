//! The node, see README.md: its program, and its keys for `difflow validate`, which checks a dataflow file against them.

pub mod config;
pub mod preset;

mod adapter;
mod annealing;
mod lineage;
mod measured;
mod origin;
mod plugins;
mod preview;
mod rank_keys;
mod ranks;
mod record;
mod run;
mod save;
mod saver;
mod training;

use std::ffi::OsString;
use std::process::ExitCode;

use difflow_node_kit::About;

pub use record::inputs as base_model_files;

/// The git revision that the program is built from, with `-dirty` where a file was not as committed, or `unknown`.
pub const REVISION: &str = env!("DIFFLOW_REVISION");

/// Runs the program with the words of its command line, without its own name. Returns the exit code.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let about = About {
        name: env!("CARGO_PKG_NAME"),
        what: "Adapts the base model: optimizer steps on noised batches while attention anneals from causal to full.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, words, run::run)
}
