//! The noiser node: see README.md.

mod blocks;
mod noise;
mod run;

use std::process::ExitCode;

use difflow_noiser::config;

fn main() -> ExitCode {
    let about = difflow_node_kit::About {
        name: env!("CARGO_PKG_NAME"),
        what: "Draws t for each sequence, masks its tokens under the noise schedule and gives it its loss weight.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, run::run)
}
