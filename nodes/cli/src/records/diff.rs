//! `difflow diff`: how two runs were configured and how their results differ.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use eyre::Result;
use serde_json::{Value, json};

use crate::plugin::table::table;
use crate::records::list::short;
use crate::records::metrics::last;
use crate::records::run::{Run, plain};

pub const EXAMPLES: &str = "\
Examples:
  difflow diff default cosine          which keys, files and plug-ins differ, and the last metrics side by side
  difflow diff default cosine --json";

#[derive(Args)]
pub struct Arguments {
    /// A run: its name, or its folder.
    a: String,
    /// Another run.
    b: String,
    /// Folder of runs.
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Compares two runs.
///
/// # Errors
/// One is not there or cannot be read.
pub fn run(arguments: &Arguments) -> Result<()> {
    let (a, b) = (Run::open(&arguments.runs, &arguments.a)?, Run::open(&arguments.runs, &arguments.b)?);
    let (made, came) = (differences(&a, &b), outcomes(&a, &b));
    if arguments.json {
        let side = |(key, a, b): &(String, String, String)| json!({"key": key, "a": a, "b": b});
        let metric = |(name, a, b): &Outcome| json!({"metric": name, "a": a.map(|m| m.1), "b": b.map(|m| m.1)});
        let answer: Value = json!({
            "a": a.name, "b": b.name,
            "differences": made.iter().map(side).collect::<Vec<_>>(),
            "metrics": came.iter().map(metric).collect::<Vec<_>>(),
        });
        println!("{answer:#}");
        return Ok(());
    }
    if made.is_empty() {
        println!("the same configuration, files and plug-ins");
    } else {
        let rows: Vec<Vec<String>> = made.into_iter().map(|(key, a, b)| vec![key, a, b]).collect();
        println!("{}", table(&["differs", &a.name, &b.name], &rows));
    }
    let cell = |found: Option<(u64, f64)>| {
        found.map_or_else(|| "-".to_owned(), |(step, value)| format!("{} (step {step})", short(value)))
    };
    let change = |a: Option<(u64, f64)>, b: Option<(u64, f64)>| match (a, b) {
        (Some((_, a)), Some((_, b))) => format!("{:+.4}", b - a),
        _ => String::new(),
    };
    let rows: Vec<Vec<String>> =
        came.into_iter().map(|(name, a, b)| vec![name, cell(a), cell(b), change(a, b)]).collect();
    println!("\n{}", table(&["last", &a.name, &b.name, "change"], &rows));
    Ok(())
}

type Outcome = (String, Option<(u64, f64)>, Option<(u64, f64)>);

/// Keys, input files, plug-ins and versions that differ, with both sides.
fn differences(a: &Run, b: &Run) -> Vec<(String, String, String)> {
    let mut sides = Vec::new();
    let mut compare = |what: &str, a: &Value, b: &Value| {
        let empty = serde_json::Map::new();
        let (a, b) = (a.as_object().unwrap_or(&empty), b.as_object().unwrap_or(&empty));
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names.into_iter().filter(|name| a.get(*name) != b.get(*name)) {
            let side = |found: Option<&Value>| found.map_or_else(|| "not set".to_owned(), plain);
            sides.push((format!("{what}{name}"), side(a.get(name)), side(b.get(name))));
        }
    };
    compare("", &a.record["configuration"], &b.record["configuration"]);
    compare("file ", &a.record["inputs"], &b.record["inputs"]);
    compare("plug-in ", &a.record["plugins"], &b.record["plugins"]);
    compare("version of ", &a.record["versions"], &b.record["versions"]);
    for (name, field) in [
        ("difflow", "/difflow"),
        ("source revision", "/revision"),
        ("device", "/device"),
        ("documents", "/corpus"),
        ("tokenizer", "/tokenizer/sha256"),
    ] {
        let side = |run: &Run| run.record.pointer(field).map_or_else(|| "not recorded".to_owned(), plain);
        if side(a) != side(b) {
            sides.push((name.to_owned(), side(a), side(b)));
        }
    }
    sides
}

/// The last value of every metric that one of them has.
fn outcomes(a: &Run, b: &Run) -> Vec<Outcome> {
    let names: BTreeSet<&String> = a.metrics.keys().chain(b.metrics.keys()).map(|(_, name, _)| name).collect();
    names.into_iter().map(|name| (name.clone(), last(&a.metrics, name), last(&b.metrics, name))).collect()
}
