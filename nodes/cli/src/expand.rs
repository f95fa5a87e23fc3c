//! `difflow expand`: what `difflow run` passes to dora.

use clap::Args;
use eyre::Result;

use crate::chosen::Chosen;

pub const EXAMPLES: &str = "\
Examples:
  difflow expand data/experiments/tiny-long.yml > data/experiments/plain.yml
                                   paths in it are relative to the folder of the file: write it there
  difflow expand --set STEPS=100   dataflow.yml with a key changed
  difflow expand --ranks 4 --machines a,b --set ACCUMULATION=4 --set RENDEZVOUS=10.0.0.1:29500 > four.yml
                                   four ranks on two machines, for `dora start`

Exit codes: 0 done, 2 usage, 78 the file cannot be read.";

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    chosen: Chosen,
    /// Train in so many processes: the trainer becomes a node for each. docs/RANKS.md says what that promises.
    #[arg(long, value_name = "N", default_value_t = 1)]
    ranks: usize,
    /// Place the ranks on these machines of a dora cluster, as many on each, and everything else on the first.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    machines: Vec<String>,
}

/// Prints the file. Returns the exit code.
///
/// # Errors
/// When it cannot be read.
pub fn run(arguments: &Arguments) -> Result<u8> {
    Ok(match arguments.chosen.read(arguments.ranks, &arguments.machines)? {
        Ok(tree) => {
            print!("{}", tree.text());
            0
        }
        Err(code) => code,
    })
}
