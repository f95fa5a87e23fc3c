//! `difflow eval`: checkpoints by tasks.

mod arguments;
mod compare;
mod list;
mod progress;

use std::path::Path;

use chrono::Utc;
use difflow_eval::report::{self, Report, sanitised, scoring};
use difflow_eval::{EvalError, Evaluation, Options, Outcome, Places, Task};
use difflow_inference::{Opening, Session, set_num_threads};
use eyre::{Result, WrapErr, bail};
use serde_json::json;

pub use arguments::{Arguments, EXAMPLES};

use crate::eval::arguments::Command;
use crate::eval::progress::Shown;
use crate::plugin::table::table;
use crate::terminal;
use crate::validate::EXIT_CONFIG;

/// Evaluates, compares or lists. Returns the exit code. Errors if the checkpoint or a file cannot be read.
pub fn run(arguments: &Arguments) -> Result<u8> {
    if let Some(Command::Diff(diff)) = &arguments.command {
        return compare::run(diff).map(|()| 0);
    }
    let done = if arguments.list { list::run(&places(arguments)) } else { evaluate(arguments) };
    match done.as_ref().err().and_then(|e| e.downcast_ref::<EvalError>()) {
        Some(e) if e.is_configuration() => {
            eprintln!("{}", terminal::error(&e.to_string()));
            Ok(EXIT_CONFIG)
        }
        _ => done.map(|()| 0),
    }
}

/// Where tasks are looked for.
fn places(arguments: &Arguments) -> Places {
    arguments.task_folder.as_deref().map_or_else(Places::near, Places::of)
}

fn tasks(arguments: &Arguments) -> Result<Vec<Task>> {
    let places = places(arguments);
    let mut names = arguments.tasks.clone();
    if let Some(wanted) = &arguments.suite {
        let suites = places.suites()?;
        let known: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
        let Some(suite) = suites.iter().find(|suite| suite.name == *wanted) else {
            bail!("--suite: found `{wanted}`; allowed: {}", known.join(", "));
        };
        names.extend(suite.tasks.iter().cloned());
    }
    if names.is_empty() {
        bail!("--tasks or --suite says what is to be evaluated; --list shows what there is");
    }
    Ok(places.tasks(&names)?)
}

fn evaluate(arguments: &Arguments) -> Result<()> {
    let tasks = tasks(arguments)?;
    let Some(checkpoint) = &arguments.checkpoint else { bail!("--checkpoint says which model is evaluated") };
    if let Some(threads) = arguments.threads {
        set_num_threads(threads);
    }
    let opening = Opening {
        device: arguments.arithmetic.device.clone(),
        threads: arguments.threads,
        precision: arguments.arithmetic.precision(),
        tokenizer: arguments.tokenizer.clone(),
        mask_token: arguments.mask_token,
        adapter: arguments.adapter.clone(),
        ..Opening::default()
    };
    let session = Session::open(Path::new(checkpoint), &opening).wrap_err("--checkpoint")?;
    let options = Options {
        seed: arguments.seed,
        limit: arguments.limit,
        draws: arguments.draws,
        scoring: arguments.scoring,
        sequential: arguments.sequential,
        batch_tokens: arguments.batch_tokens,
        rows: arguments.rows,
        code: arguments.allow_code_execution,
    };
    // All of them before the first forward: what is wrong with the last is not found out after hours.
    let prepared: Vec<Evaluation> =
        tasks.iter().map(|task| Evaluation::prepare(task, &session, &options)).collect::<Result<_, _>>()?;
    let fingerprint = report::fingerprint(&session, arguments.adapter.as_deref())?;
    let named = match &arguments.adapter {
        None => checkpoint.clone(),
        Some(adapter) => format!("{checkpoint}+{}", adapter.display()),
    };
    let out = arguments.out.join(sanitised(&named));
    let mut shown = Shown::new();
    let mut done: Vec<(&Evaluation, Outcome)> = Vec::new();
    for evaluation in &prepared {
        shown.task(&evaluation.task.name);
        let outcome = evaluation.run(Some(&out.join("answers")), &fingerprint, &mut |done| {
            shown.show(done);
            Ok(())
        })?;
        shown.end();
        done.push((evaluation, outcome));
    }
    let report = Report {
        session: &session,
        model: named,
        date: Utc::now().format("%Y-%m-%dT%H-%M-%S%.6f").to_string(),
        device: arguments.arithmetic.device.clone(),
        limit: arguments.limit,
        seed: arguments.seed,
        checkpoint: fingerprint,
    };
    let pairs: Vec<(&Evaluation, &Outcome)> = done.iter().map(|(evaluation, outcome)| (*evaluation, outcome)).collect();
    let path = report::write(&out, &report, &pairs)?;
    if arguments.json {
        println!("{}", std::fs::read_to_string(&path).wrap_err_with(|| format!("cannot read {}", path.display()))?);
    } else {
        println!("{}", results(&pairs));
        println!("\n{}", path.display());
    }
    Ok(())
}

/// The figures as a table.
fn results(tasks: &[(&Evaluation, &Outcome)]) -> String {
    let mut rows = Vec::new();
    for (evaluation, outcome) in tasks {
        for (name, figure) in &outcome.figures {
            let name = name.strip_suffix(",none").unwrap_or(name);
            rows.push(vec![
                evaluation.task.name.clone(),
                name.to_owned(),
                format!("{:.4}", figure.value),
                format!("{:.4}", figure.stderr),
                format!("{:.4} to {:.4}", figure.low, figure.high),
                outcome.answers.len().to_string(),
                scoring(evaluation),
            ]);
        }
    }
    table(&["task", "metric", "value", "error", "95 % interval", "questions", "scoring"], &rows)
}

/// As JSON, for tests of the command and other programs.
fn compared(found: &[difflow_eval::diff::Compared]) -> serde_json::Value {
    let row = |one: &difflow_eval::diff::Compared| {
        json!({
            "task": one.task, "metric": one.metric, "questions": one.questions, "a": one.a, "b": one.b,
            "difference": one.b - one.a, "stderr": one.stderr, "only_a": one.only.map(|only| only.0),
            "only_b": one.only.map(|only| only.1), "p": one.p, "differing": one.differing,
        })
    };
    found.iter().map(row).collect()
}
