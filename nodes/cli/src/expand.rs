//! `difflow expand`: what `difflow run` passes to dora.

use std::path::PathBuf;

use clap::Args;
use eyre::Result;

use crate::dataflow::Assignment;
use crate::run;

pub const EXAMPLES: &str = "\
Examples:
  difflow expand data/experiments/tiny-long.yml > data/experiments/plain.yml
                                   paths in it are relative to the folder of the file: write it there
  difflow expand --set STEPS=100   dataflow.yml with a key changed

Exit codes: 0 done, 2 usage, 78 the file cannot be read.";

#[derive(Args)]
pub struct Arguments {
    /// The dataflow file.
    #[arg(default_value = "dataflow.yml")]
    file: PathBuf,
    /// Change a key, in all nodes that have it, or with NODE.KEY in one; as often as needed.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Assignment>,
}

/// Prints the file. Returns the exit code.
///
/// # Errors
/// When it cannot be read.
pub fn run(arguments: &Arguments) -> Result<u8> {
    match run::read(&arguments.file, &arguments.set)? {
        Ok(tree) => print!("{}", tree.text()),
        Err((problem, code)) => {
            eprintln!("{problem}");
            return Ok(code);
        }
    }
    Ok(0)
}
