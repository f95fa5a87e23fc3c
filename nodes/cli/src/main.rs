//! `difflow`: runs difflow's dataflows for people. See README.md.

mod dora;
mod inspect;
mod line;
mod outcome;
mod plugin;
mod run;
mod sample;
mod score;
mod signals;
mod terminal;
mod texts;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  difflow run                                     run dataflow.yml of this folder
  difflow run data/experiments/tinystories.yml    run another dataflow file
  difflow run dataflow.yml -- --stop-after 30s    hand an option on to `dora run`
  difflow plugin new my-noise --kind noise-schedule

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
    /// Look at a model: what it is, or what it computes.
    #[command(subcommand)]
    Inspect(inspect::Inspect),
    /// Measure a model on text: nats per token as an autoregressive model, or the diffusion model's bound on them.
    Score(score::Score),
    /// Make, list, show and check plug-ins: schedules, transforms and base models as shared libraries.
    #[command(subcommand)]
    Plugin(plugin::Command),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    if !matches!(command, Command::Run { .. }) {
        signals::end_on_broken_pipe();
    }
    let code = match command {
        Command::Run { file, dora, options } => run::run(&file, dora, &options),
        Command::Sample(arguments) => sample::run(&arguments),
        Command::Inspect(inspect) => inspect.run().map(|()| 0),
        Command::Score(score) => score.run().map(|()| 0),
        Command::Plugin(command) => plugin::run(command),
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(report) => {
            eprintln!("{}", terminal::error(&format!("{report:#}")));
            ExitCode::FAILURE
        }
    }
}
