//! The checkpointer node: see README.md.

mod prune;
mod run;
mod scores;

use std::process::ExitCode;

use difflow_checkpointer::config;

fn main() -> ExitCode {
    let about = difflow_node_kit::About {
        name: env!("CARGO_PKG_NAME"),
        what: "Verifies each checkpoint, publishes it to sampler and evaluator, and prunes old ones.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, run::run)
}
