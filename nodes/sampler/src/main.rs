//! difflow-sampler: see README.md.

mod jobs;
mod run;
mod sampling;
mod texts;
#[cfg(test)]
#[path = "../../../tests/src/tiny.rs"]
mod tiny;
mod verdict;

use std::process::ExitCode;

use difflow_node_kit::About;
use difflow_sampler::config;

fn main() -> ExitCode {
    let about = About {
        name: env!("CARGO_PKG_NAME"),
        what: "Lets each published checkpoint write and fill in texts, and checks them.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main::<config::Config>(about, run::run)
}
