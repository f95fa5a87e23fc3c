//! `difflow`: runs difflow's dataflows for users. See README.md.

mod arithmetic;
mod card;
mod chosen;
mod dataflow;
mod docs;
mod doctor;
mod dora;
mod eval;
mod expand;
mod experiment;
mod export;
mod graph;
mod history;
mod home;
mod init;
mod inspect;
mod inspect_data;
mod inspect_run;
mod line;
mod merge;
mod outcome;
mod plan;
mod plugin;
mod records;
mod run;
mod sample;
mod schema;
mod score;
mod serve;
mod signals;
mod sweep;
mod terminal;
mod validate;
mod written_out;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  difflow init demo                               a folder with all that a run needs
  difflow run                                     run dataflow.yml of this folder
  difflow run data/experiments/tinystories.yml    run another dataflow file
  difflow run --set STEPS=100 --set RUN=short     change keys for this run
  difflow run --set sampler.DEVICE=cpu            change the key of one node
  difflow run dataflow.yml -- --stop-after 30s    hand an option on to `dora run`
  difflow run --from 600                          go back to the checkpoint of step 600
  difflow run other.yml --fork warmer             another experiment from this run's last checkpoint
  difflow inspect run default                     what a run has trained on, with proof
  difflow validate my.yml                         everything that is wrong with a file, at once
  difflow plan my.yml                             what it would take
  difflow sweep my-sweep.yml                      many runs that differ by keys and seeds, and a table of them
  difflow runs                                    what ran, and what came out
  difflow plugin new my-noise --kind noise-schedule

Exit codes: 0 done or cleanly stopped, 1 failed, 2 usage, 78 a node refused its configuration.
Ctrl-C stops the run cleanly: the trainer writes a checkpoint first, and the same command goes on from there.
NO_COLOR=1 switches colours off.";

const COMPLETIONS: &str = "\
Examples:
  difflow completions bash > ~/.local/share/bash-completion/completions/difflow
  difflow completions zsh > ~/.zfunc/_difflow
  difflow completions fish > ~/.config/fish/completions/difflow.fish";

/// Turns an autoregressive language model into a diffusion language model, as a dora dataflow.
#[derive(Parser)]
#[command(name = "difflow", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a folder with the default dataflow and its data, ready to run.
    #[command(after_help = init::EXAMPLES)]
    Init(init::Arguments),
    /// Run a dataflow file and show its progress, its result and its errors, without dora's own log lines.
    #[command(after_help = EXAMPLES)]
    Run(run::Arguments),
    /// Print a dataflow file with its modules written out and each key where its node finds it, for `dora start`.
    #[command(after_help = expand::EXAMPLES)]
    Expand(expand::Arguments),
    /// Find everything that is wrong with a dataflow file, at once, without running it.
    #[command(after_help = validate::EXAMPLES)]
    Validate(validate::Arguments),
    /// Run a grid, named trials or random ones, with several seeds, and print what came of them as a table.
    #[command(after_help = sweep::EXAMPLES)]
    Sweep(sweep::Arguments),
    /// Say what a run would take: parameters, tokens, FLOPs, memory, disk and time, with its schedules as curves.
    #[command(after_help = plan::EXAMPLES)]
    Plan(plan::Arguments),
    /// Draw a dataflow file, with the message on every edge.
    #[command(after_help = graph::EXAMPLES)]
    Graph(graph::Arguments),
    /// Look whether this machine has what a run needs, or whether the machines of a cluster fit together.
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Arguments),
    /// List runs with their last numbers.
    #[command(after_help = records::list::EXAMPLES)]
    Runs(records::list::Arguments),
    /// Compare two runs: what differs, and what came of it.
    #[command(after_help = records::diff::EXAMPLES)]
    Diff(records::diff::Arguments),
    /// Tell what a run was and what came out, as Markdown.
    #[command(after_help = records::report::EXAMPLES)]
    Report(records::report::Arguments),
    /// Ask the metrics of all runs with SQL.
    #[command(after_help = records::sql::EXAMPLES)]
    Sql(records::sql::Arguments),
    /// Let a checkpoint write: from nothing, behind a prompt, or into the gaps of a text.
    #[command(after_help = sample::EXAMPLES)]
    Sample(Box<sample::Arguments>),
    /// Answer requests with texts from a checkpoint: OpenAI's API, infilling for editors, and a page to play on.
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::Serve),
    /// Look at a model or a run: what it is, what it computes, what it was trained on.
    #[command(subcommand)]
    Inspect(inspect::Inspect),
    /// Measure a model on text: nats per token as an autoregressive model, or the diffusion model's bound on them.
    #[command(after_help = score::EXAMPLES)]
    Score(score::Score),
    /// Evaluate a checkpoint by tasks: choices, perplexity, gaps and texts, scored with errors; every answer is kept.
    #[command(after_help = eval::EXAMPLES)]
    Eval(eval::Arguments),
    /// Add an adapter to its base model: one model, for those who read no adapters.
    #[command(after_help = merge::EXAMPLES)]
    Merge(merge::Merge),
    /// Write a checkpoint for others: the model without the optimizer's state, with a card and the code by which `transformers` reads it.
    #[command(after_help = export::EXAMPLES)]
    Export(export::Export),
    /// Make, list, show and check plug-ins: schedules, transforms and base models as shared libraries.
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Print a JSON schema of dataflow files, for editors.
    #[command(after_help = schema::EXAMPLES)]
    Schema,
    /// Print completions for a shell.
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Make the pages of the documentation that come from the program.
    #[command(hide = true)]
    Docs {
        /// Print this one; without it, list them.
        page: Option<docs::Page>,
        /// Write all of them below this checkout.
        #[arg(long, conflicts_with = "page")]
        write: Option<PathBuf>,
    },
    /// Be a node of the dataflow by which `doctor --cluster` looks at machines.
    #[command(hide = true)]
    Probe,
    /// Be one of the nodes: an installation has their code once, in this program.
    #[command(hide = true, disable_help_flag = true)]
    Node {
        /// What the program of the node is called.
        program: String,
        /// Its command line.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

/// Runs the node `program`. Returns its exit code.
fn node(program: &str, words: Vec<OsString>) -> ExitCode {
    match dataflow::program(program) {
        Some(found) => (found.main)(words),
        None => {
            let allowed: Vec<&str> = dataflow::PROGRAMS.iter().map(|program| program.ports.program).collect();
            let text = format!("found `{program}`, which is no node; allowed: {}", allowed.join(", "));
            eprintln!("{}", terminal::error(&text));
            ExitCode::from(validate::EXIT_USAGE)
        }
    }
}

fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let command = Arguments::from_arg_matches(&matches).unwrap_or_else(|e| e.exit()).command;
    if !matches!(command, Command::Run(_) | Command::Sweep(_) | Command::Node { .. }) {
        signals::end_on_broken_pipe();
    }
    let code = match command {
        Command::Node { program, words } => return node(&program, words),
        Command::Init(arguments) => init::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Expand(arguments) => expand::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Sweep(arguments) => sweep::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Graph(arguments) => graph::run(&arguments).map(|()| 0),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Probe => doctor::probe(),
        Command::Runs(arguments) => records::list::run(&arguments).map(|()| 0),
        Command::Diff(arguments) => records::diff::run(&arguments).map(|()| 0),
        Command::Report(arguments) => records::report::run(&arguments).map(|()| 0),
        Command::Sql(arguments) => records::sql::run(&arguments).map(|()| 0),
        Command::Schema => {
            schema::run();
            Ok(0)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "difflow", &mut std::io::stdout());
            Ok(0)
        }
        Command::Docs { page, write } => docs::run(page, write.as_deref(), Arguments::command()).map(|()| 0),
        Command::Sample(arguments) => {
            let given = matches.subcommand_matches("sample").map(|matches| arguments.decoding.given(matches));
            sample::run(&arguments, &given.unwrap_or_default())
        }
        Command::Serve(serve) => serve.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Score(score) => score.run().map(|()| 0),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Merge(merge) => merge.run().map(|()| 0),
        Command::Export(export) => export.run().map(|()| 0),
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
