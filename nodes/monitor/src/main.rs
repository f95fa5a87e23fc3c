//! difflow-monitor: see README.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    difflow_monitor::main(std::env::args_os().skip(1).collect())
}
