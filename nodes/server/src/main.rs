//! difflow-server: see README.md.

use std::process::ExitCode;

use difflow_node_kit::About;
use difflow_server::config::Config;

fn main() -> ExitCode {
    let about = About {
        name: env!("CARGO_PKG_NAME"),
        what: "Serves the newest published checkpoint over HTTP.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main::<Config>(about, difflow_server::run)
}
