//! difflow-server: see README.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    difflow_server::main(std::env::args_os().skip(1).collect())
}
