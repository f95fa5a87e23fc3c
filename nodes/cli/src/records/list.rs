//! `difflow runs`.

use std::path::PathBuf;

use clap::Args;
use difflow_schema::measures::MEASURES;
use eyre::Result;
use serde_json::{Value, json};

use crate::plugin::table::table;
use crate::records::metrics::last;
use crate::records::run::Run;

pub const EXAMPLES: &str = "\
Examples:
  difflow runs                    the runs in runs/
  difflow runs --runs /data/runs  those of another folder
  difflow runs --json";

#[derive(Args)]
pub struct Arguments {
    /// Folder of runs.
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Metrics of the table, with their headings.
fn shown() -> impl Iterator<Item = (&'static str, &'static str)> {
    let measured = MEASURES.iter().filter(|measure| !measure.column.is_empty());
    measured.map(|measure| (measure.name, measure.column))
}

/// Lists runs.
///
/// # Errors
/// One that cannot be read.
pub fn run(arguments: &Arguments) -> Result<()> {
    let runs = Run::all(&arguments.runs)?;
    if arguments.json {
        let one = |run: &Run| {
            let metrics: serde_json::Map<String, Value> = shown()
                .map(|(name, _)| (name.to_owned(), json!(last(&run.metrics, name).map(|(_, value)| value))))
                .collect();
            json!({"run": run.name, "step": run.last_step(), "checkpoints": run.checkpoints, "metrics": metrics})
        };
        println!("{:#}", json!(runs.iter().map(one).collect::<Vec<_>>()));
        return Ok(());
    }
    if runs.is_empty() {
        println!("no runs in {}", arguments.runs.display());
        return Ok(());
    }
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
    let row = |run: &Run| {
        let mut cells = vec![run.name.clone(), run.last_step().map_or_else(|| "-".to_owned(), |step| step.to_string())];
        cells.extend(shown().map(|(name, _)| number(last(&run.metrics, name).map(|(_, value)| value))));
        cells.push(run.checkpoints.len().to_string());
        cells
    };
    let columns = shown().map(|(_, heading)| heading);
    let header: Vec<&str> = ["run", "step"].into_iter().chain(columns).chain(["checkpoints"]).collect();
    println!("{}", table(&header, &runs.iter().map(row).collect::<Vec<_>>()));
    Ok(())
}

/// A number with four digits that count.
pub fn short(value: f64) -> String {
    if value.is_finite() && value.abs() >= 10_000.0 { format!("{value:.0}") } else { format!("{value:.4}") }
}
