//! `difflow sweep`: many runs of one dataflow file, and what came of them.

mod file;
mod summary;
mod trial;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::Args;
use eyre::{Context, Result};

use crate::chosen::Chosen;
use crate::experiment::Experiment;
use crate::signals;
use crate::sweep::file::{Sweep, Trial};
use crate::sweep::summary::{Row, picture, table, usual_columns};
use crate::sweep::trial::{Common, One};
use crate::terminal::error;
use crate::validate::EXIT_CONFIG;

pub const EXAMPLES: &str = "\
Examples:
  difflow sweep data/experiments/sweep-ablation-tiny.yml            run all that is not done yet, then print the table
  difflow sweep my-sweep.yml --only no-shift,band --seeds 1,2       some of it
  difflow sweep my-sweep.yml --lanes 2                              two runs at a time (set THREADS accordingly)
  difflow sweep my-sweep.yml --table --picture sweep.svg            only the table of what is done, and a picture

A sweep's file:
  dataflow: tiny-diffusion.yml           # relative to this file
  name: rates                            # runs are called rates-TRIAL-SEED
  seeds: [1, 2, 3]
  set: { STEPS: 600 }                    # keys of all runs
  grid: { LEARNING_RATE: [1e-3, 3e-3], OPTIMIZER: [adamw, muon] }
  # or trials: [{ name: no-shift, title: without shift, set: { SHIFT: false } }]
  # or random: { trials: 20, seed: 1, keys: { LEARNING_RATE: { from: 1e-4, to: 1e-2, log: true }, LORA_RANK: [4, 8] } }
  measure: { heldout: 'difflow score --model \"$CHECKPOINT\" --text held-out.txt --mode nelbo --json' }
  columns: [{ metric: heldout.nats_per_token, title: bound, digits: 3 }, { metric: pass_rate }]

The same command goes on where it was stopped.
Exit codes: 0 done or stopped, 1 a run failed (the others were run), 2 usage, 78 the sweep's file or the dataflow is wrong.";

#[derive(Args)]
pub struct Arguments {
    /// The sweep's file.
    file: PathBuf,
    /// Only these trials, by name or title, with commas between them.
    #[arg(long, value_name = "TRIAL,TRIAL", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these seeds.
    #[arg(long, value_name = "SEED,SEED", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Runs at a time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    lanes: u16,
    /// Run nothing: the table of what is done.
    #[arg(long)]
    table: bool,
    /// Draw the table's columns into this SVG file.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// Runs a sweep and prints its table. Returns the exit code.
///
/// # Errors
/// When a run's folder cannot be read, or the picture not be written.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let refuse = |problem: &str| {
        eprintln!("{}", error(problem));
        Ok(EXIT_CONFIG)
    };
    let (sweep, trials) = match Sweep::read(&arguments.file).and_then(|sweep| Ok((sweep.trials()?, sweep))) {
        Ok((trials, sweep)) => (sweep, trials),
        Err(e) => return refuse(&format!("{e:#}")),
    };
    let names = |trial: &Trial, name: &String| trial.name == *name || trial.title == *name;
    if let Some(name) = arguments.only.iter().find(|name| !trials.iter().any(|trial| names(trial, name))) {
        let there: Vec<&str> = trials.iter().map(|trial| trial.name.as_str()).collect();
        return refuse(&format!("--only: there is no trial `{name}`; there is: {}", there.join(", ")));
    }
    let chosen = |trial: &Trial| arguments.only.is_empty() || arguments.only.iter().any(|name| names(trial, name));
    let dataflow = sweep.file(&arguments.file);
    let seeds = if arguments.seeds.is_empty() { &sweep.seeds } else { &arguments.seeds };
    let mut runs = Vec::new();
    // Seed by seed: a sweep that is stopped early has all trials of the first.
    for &seed in seeds {
        for (number, trial) in trials.iter().enumerate().filter(|(_, trial)| chosen(trial)) {
            match one(&sweep, &dataflow, number, trial, seed)? {
                Ok(one) => runs.push(one),
                Err(code) => return Ok(code),
            }
        }
    }
    let common = Common { sweep: &arguments.file, dataflow: &dataflow, measure: &sweep.measure };
    let failed = if arguments.table { 0 } else { all(&runs, &common, arguments.lanes)? };

    let mut rows: Vec<Row<'_>> = trials.iter().map(|trial| Row { trial, runs: Vec::new() }).collect();
    for run in runs.iter().filter(|run| run.is_done(&common)) {
        rows[run.trial].runs.push(run.metrics()?);
    }
    rows.retain(|row| chosen(row.trial));
    let columns = if sweep.columns.is_empty() { usual_columns(&rows) } else { sweep.columns.clone() };
    println!("{}", table(&rows, &columns));
    if let Some(file) = &arguments.picture {
        let svg = picture(&rows, &columns)?;
        std::fs::write(file, svg).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(u8::from(failed > 0))
}

/// A run, checked as far as its keys go; the exit code if they are wrong.
fn one(sweep: &Sweep, dataflow: &Path, trial: usize, of: &Trial, seed: u64) -> Result<Result<One, u8>> {
    let set = sweep.set(of, seed);
    let assignments: Result<Vec<_>, String> = set.iter().map(|text| text.parse()).collect();
    let assignments = match assignments {
        Ok(assignments) => assignments,
        Err(problem) => {
            eprintln!("{}", error(&format!("trial `{}`: {problem}", of.name)));
            return Ok(Err(EXIT_CONFIG));
        }
    };
    let tree = match Chosen::of(dataflow, assignments).read(1, &[])? {
        Ok(tree) => tree,
        Err(_) => {
            eprintln!("(that is trial `{}`)", of.name);
            return Ok(Err(EXIT_CONFIG));
        }
    };
    let dir = Experiment::of(&tree, dataflow)?.dir();
    Ok(Ok(One { trial, seed, dir, name: sweep.run(of, seed), set }))
}

/// Runs what is not done, so many at a time, and says what becomes of each. Returns how many failed.
///
/// # Errors
/// When signals cannot be caught.
fn all(runs: &[One], common: &Common<'_>, lanes: u16) -> Result<usize> {
    signals::catch().context("cannot catch signals")?;
    let (waiting, failed) = (Mutex::new(VecDeque::new()), Mutex::new(0));
    lock(&waiting).extend(runs.iter().enumerate().filter(|(_, run)| !run.is_done(common)));
    let said = |number: usize, what: &str| eprintln!("[{}/{}] {what}", number + 1, runs.len());
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while !signals::asked() {
                    let Some((number, run)) = lock(&waiting).pop_front() else { break };
                    said(number, &format!("{} …", run.name));
                    match run.run(common) {
                        Ok(true) => said(number, &format!("{} done", run.name)),
                        Ok(false) => said(number, &format!("{} stopped; the same command goes on", run.name)),
                        Err(e) => {
                            said(number, &error(&format!("{e:#}")));
                            *lock(&failed) += 1;
                        }
                    }
                }
            });
        }
    });
    Ok(*lock(&failed))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
