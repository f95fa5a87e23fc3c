//! `difflow`: runs difflow's dataflows for people. See README.md.

mod dora;
mod line;
mod outcome;
mod run;
mod sample;
mod signals;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  difflow run                                     run dataflow.yml of this folder
  difflow run data/experiments/tinystories.yml    run another dataflow file
  difflow run dataflow.yml -- --stop-after 30s    hand an option on to `dora run`

Exit codes: 0 done or cleanly stopped, 1 failed, 2 usage, 78 a node refused its configuration.
Ctrl-C stops the run cleanly: the trainer writes a checkpoint first, and the same command goes on from there.
NO_COLOR=1 switches colours off.";

/// Turns an autoregressive language model into a diffusion language model, as a dora dataflow.
#[derive(Parser)]
#[command(name = "difflow", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a dataflow file and show its progress, its result and its errors, without dora's own log lines.
    #[command(after_help = EXAMPLES)]
    Run {
        /// The dataflow file.
        #[arg(default_value = "dataflow.yml")]
        file: PathBuf,
        /// The dora program; default: `dora` beside this program, else on PATH.
        #[arg(long)]
        dora: Option<PathBuf>,
        /// Options for `dora run`.
        #[arg(last = true)]
        options: Vec<String>,
    },
    /// Let a checkpoint write: from nothing, behind a prompt, or into the gaps of a text.
    #[command(after_help = sample::EXAMPLES)]
    Sample(Box<sample::Arguments>),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { file, dora, options } => run::run(&file, dora, &options),
        Command::Sample(arguments) => sample::run(&arguments),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(report) => {
            eprintln!("{}", terminal::error(&format!("{report:#}")));
            ExitCode::FAILURE
        }
    }
}
