//! The trainer node: see README.md.

mod annealing;
mod lineage;
mod measured;
mod origin;
mod plugins;
mod preview;
mod ranks;
mod record;
mod run;
mod save;
mod saver;
mod training;

use std::process::ExitCode;

use difflow_trainer::{config, preset};

fn main() -> ExitCode {
    let about = difflow_node_kit::About {
        name: env!("CARGO_PKG_NAME"),
        what: "Adapts the base model: optimizer steps on noised batches while attention anneals from causal to full.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, run::run)
}
