//! `difflow report`: a run as a page of text. The monitor's report.html has the pictures.

use std::path::PathBuf;

use clap::Args;
use difflow_schema::measures::MEASURES;
use difflow_schema::run::RunDir;
use eyre::Result;

use crate::records::list::short;
use crate::records::metrics::{before, last};
use crate::records::run::{Run, plain};

pub const EXAMPLES: &str = "\
Examples:
  difflow report default              what ran, with what, what came out, and where the pictures are
  difflow report default > run.md     it is Markdown";

#[derive(Args)]
pub struct Arguments {
    /// The run: its name, or its folder.
    run: String,
    /// Folder of runs.
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
}

/// Why two numbers stand side by side.
const LENGTHS: &str = "\n\
The NELBO is given the length of each document, the loss left to right has to predict it: what compares with that loss is the NELBO with \
length.\n";

/// Prints the report.
///
/// # Errors
/// There is no such run.
pub fn run(arguments: &Arguments) -> Result<()> {
    print!("{}", text(&Run::open(&arguments.runs, &arguments.run)?));
    Ok(())
}

fn text(run: &Run) -> String {
    let mut text = format!("# Run {}\n\n", run.name);
    let step =
        run.last_step().map_or_else(|| "no step was measured".to_owned(), |step| format!("{step} optimizer steps"));
    let tokens =
        last(&run.metrics, "tokens_seen").map(|(_, tokens)| format!(", {tokens:.0} tokens seen")).unwrap_or_default();
    let loss = last(&run.metrics, "loss").map(|(_, loss)| format!(", last loss {}", short(loss))).unwrap_or_default();
    text.push_str(&format!("{step}{tokens}{loss}; difflow {}.\n\n", plain(&run.record["difflow"])));
    if let Some(fork) = run.record["fork"].as_object() {
        text.push_str(&format!("It began with step {} of run {}.\n\n", plain(&fork["step"]), plain(&fork["run"])));
    }
    text.push_str("## What came out\n\n| | before | after |\n|---|---|---|\n");
    for measure in MEASURES.iter().filter(|measure| measure.reported) {
        let (name, what) = (measure.name, measure.title());
        let first = before(&run.metrics, name);
        let after = last(&run.metrics, name).filter(|(step, _)| *step > 0);
        if first.is_some() || after.is_some() {
            let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
            text.push_str(&format!("| {what} | {} | {} |\n", cell(first), cell(after.map(|(_, value)| value))));
        }
    }
    if last(&run.metrics, "nelbo_with_length").is_some() {
        text.push_str(LENGTHS);
    }
    text.push_str("\n## With what\n\n| key | value |\n|---|---|\n");
    for (key, value) in run.keys() {
        text.push_str(&format!("| {key} | `{value}` |\n"));
    }
    text.push_str("\n| input | sha256 |\n|---|---|\n");
    for (file, sha256) in run.record["inputs"].as_object().into_iter().flatten() {
        text.push_str(&format!("| {file} | `{}` |\n", plain(sha256)));
    }
    for (key, plugin) in run.record["plugins"].as_object().into_iter().flatten() {
        text.push_str(&format!(
            "| plug-in {key}: {} {} | `{}` |\n",
            plain(&plugin["id"]),
            plain(&plugin["version"]),
            plain(&plugin["sha256"])
        ));
    }
    let steps: Vec<String> = run.checkpoints.iter().map(u64::to_string).collect();
    let dir = RunDir::new(run.folder.parent().unwrap_or(std::path::Path::new("")), &run.name);
    text.push_str(&format!(
        "\n## Where\n\nCheckpoints of steps {} in {}.\n",
        steps.join(", "),
        dir.checkpoints().display()
    ));
    if dir.report().is_file() {
        text.push_str(&format!("Pictures and samples: {}.\n", dir.report().display()));
    }
    text.push_str("To repeat it: the same dataflow file with another RUN; the same inputs, seed, device and number of threads give the same weights (docs/REPRODUCIBILITY.md).\n");
    text
}
