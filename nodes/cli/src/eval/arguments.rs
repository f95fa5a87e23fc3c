//! The arguments of `difflow eval`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};
use difflow_inference::Scoring;

use crate::arithmetic::Arithmetic;

pub const EXAMPLES: &str = "\
Examples:
  difflow eval --list                                              every task and suite, with what it is
  difflow eval --checkpoint runs/default --suite tiny              data/tiny's own tasks
  difflow eval --checkpoint data/tiny/model --tasks tiny-endings --limit 100
  difflow eval --checkpoint runs/default --tasks tiny-endings --draws 32 --sequential 3
  DIFFLOW_DATA_DIR=/where/the/data/is difflow eval --checkpoint diffusionfamily/diffugpt-s --suite paper-table1
  DIFFLOW_DATA_DIR=… difflow eval --checkpoint diffusionfamily/diffullama --mask-token 811 --suite paper-table1
  difflow eval diff evaluations/data__tiny__model evaluations/runs__default
  difflow eval --checkpoint runs/default --tasks my-task.yml       a task file of your own (docs/EVALUATION.md)

A command that was stopped goes on where it was when it is given again.
Exit codes: 0 done, 1 failed, 2 usage, 78 a task file or its data are wrong.";

const DIFF: &str = "\
Examples:
  difflow eval diff evaluations/data__tiny__model evaluations/runs__default";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// A checkpoint, a base model, the folder of a run (its last checkpoint), or a hub id (owner/name).
    #[arg(long, required_unless_present = "list")]
    pub checkpoint: Option<String>,
    /// A folder with an adapter (PEFT's files) for it. A checkpoint that is one itself needs none.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// Tasks by name, or task files.
    #[arg(long, value_delimiter = ',')]
    pub tasks: Vec<String>,
    /// Tasks under one name.
    #[arg(long)]
    pub suite: Option<String>,
    /// Show every task and suite.
    #[arg(long)]
    pub list: bool,
    /// Folder with task files; default: data/tasks here, in a folder above, or of difflow itself.
    #[arg(long)]
    pub task_folder: Option<PathBuf>,
    /// Questions of each task, from the first on; default: all.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub limit: Option<usize>,
    /// How candidates are measured; default: as the task says, else exact for a model that reads from left to right and llada-mc for others.
    #[arg(long, value_enum)]
    pub scoring: Option<Scoring>,
    /// Draws of each candidate, or steps of t; default: as the task says, else 128.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub draws: Option<u32>,
    /// With llada-mc: more draws only until the best candidate is this many standard errors before every other.
    #[arg(long, value_name = "ERRORS")]
    pub sequential: Option<f64>,
    /// Key of all random numbers.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder for answers and results.
    #[arg(long, default_value = "evaluations")]
    pub out: PathBuf,
    /// Tokens of a forward, padding included.
    #[arg(long, default_value_t = 16_384, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub batch_tokens: usize,
    /// Texts that are written together.
    #[arg(long, default_value_t = 16, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub rows: usize,
    /// Run programs that the model wrote, for tasks that test them: without network and files, with limits on time and memory.
    #[arg(long)]
    pub allow_code_execution: bool,
    /// tokenizer.json; default: the one beside the weights.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Id of the mask token of a diffusion model whose files do not say it (DiffuLLaMA: 811).
    #[arg(long)]
    pub mask_token: Option<u32>,
    /// CPU threads of one operation; default: all cores.
    #[arg(long)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub arithmetic: Arithmetic,
    /// Print the results file instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Compare two evaluations question by question.
    #[command(after_help = DIFF)]
    Diff(Diff),
}

#[derive(Args)]
pub struct Diff {
    /// Folder of an evaluation: that with results_*.json.
    pub a: PathBuf,
    /// Another one.
    pub b: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}
