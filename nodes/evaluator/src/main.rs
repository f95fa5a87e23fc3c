//! difflow-evaluator: see README.md.

mod evaluation;
mod heldout;
mod run;

use std::process::ExitCode;

use difflow_evaluator::config;
use difflow_node_kit::About;

fn main() -> ExitCode {
    let about = About {
        name: env!("CARGO_PKG_NAME"),
        what: "Scores each published checkpoint on held-out text: bound on the likelihood and infilling.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main::<config::Config>(about, run::run)
}
