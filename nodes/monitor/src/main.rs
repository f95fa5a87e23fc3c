//! The monitor node: see README.md.

mod charts;
mod curves;
mod figures;
mod files;
mod format;
mod health;
mod history;
mod inputs;
mod origin;
mod page;
mod processes;
mod progress;
mod report;
mod run;
mod screen;
mod series;
mod show;
mod store;
mod tensorboard;

use std::process::ExitCode;

use difflow_monitor::config;

fn main() -> ExitCode {
    let about = difflow_node_kit::About {
        name: env!("CARGO_PKG_NAME"),
        what: "Shows a run's progress, keeps its metrics and samples, and writes its report.",
        version: env!("CARGO_PKG_VERSION"),
    };
    difflow_node_kit::main(about, run::run)
}
