//! difflow-sampler: see README.md.

mod run;
mod sampling;

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
