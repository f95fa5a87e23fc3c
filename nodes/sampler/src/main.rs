//! difflow-sampler: see README.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    difflow_sampler::main(std::env::args_os().skip(1).collect())
}
