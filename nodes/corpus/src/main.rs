//! difflow-corpus: see README.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    difflow_corpus::main(std::env::args_os().skip(1).collect())
}
