//! `difflow expand`: what `difflow run` passes to dora.

use clap::Args;
use eyre::Result;

use crate::chosen::Chosen;

pub const EXAMPLES: &str = "\
Examples:
  difflow expand data/experiments/tiny-long.yml > data/experiments/plain.yml
                                   paths in it are relative to the folder of the file: write it there
  difflow expand --set STEPS=100   dataflow.yml with a key changed

Exit codes: 0 done, 2 usage, 78 the file cannot be read.";

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    chosen: Chosen,
}

/// Prints the file. Returns the exit code.
///
/// # Errors
/// When it cannot be read.
pub fn run(arguments: &Arguments) -> Result<u8> {
    Ok(match arguments.chosen.read()? {
        Ok(tree) => {
            print!("{}", tree.text());
            0
        }
        Err(code) => code,
    })
}
