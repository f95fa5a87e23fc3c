//! `difflow validate`: everything that is wrong with a dataflow file, at once, with its position.

mod files;
mod keys;
mod model;
mod plugins;
mod rules;
mod variables;
mod wiring;

use std::path::{Path, PathBuf};

use clap::Args;
use difflow_node_kit::dataflow::Dataflow;
use eyre::{Context, Result};
use serde_json::json;

use crate::dataflow::{Finding, Kind, Level, Mark, Names, shape};
use crate::terminal;

pub use keys::settings;
pub use plugins::{Named, open};

/// Exit code for a wrong configuration.
pub const EXIT_CONFIG: u8 = 78;
/// Exit code for a wrong call.
pub const EXIT_USAGE: u8 = 2;

pub const EXAMPLES: &str = "\
Examples:
  difflow validate                          check dataflow.yml of this folder
  difflow validate my.yml --deny-warnings   warnings count as errors
  difflow validate my.yml --json            for editors and scripts: a list of findings
  difflow validate paper.yml --no-environment
                                            the file alone: no files, plug-in libraries or environment variables

Exit codes: 0 nothing wrong, 2 no such file, 78 something is wrong.";

#[derive(Args)]
pub struct Arguments {
    /// The dataflow file.
    #[arg(default_value = "dataflow.yml")]
    file: PathBuf,
    /// Warnings count as errors.
    #[arg(long)]
    deny_warnings: bool,
    /// Judge the file alone: look at no other file, load no plug-in library, read no environment variable.
    #[arg(long)]
    no_environment: bool,
    /// A JSON list of findings.
    #[arg(long)]
    json: bool,
}

/// What a file is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// The file alone.
    None,
    /// Also the files, libraries and variables it names; paths are relative to the current folder.
    Here,
}

/// Checks a file and prints what is wrong. Returns the exit code.
///
/// # Errors
/// When the folder of the file cannot be entered.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let file = &arguments.file;
    let name = file.display().to_string();
    let text = match std::fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) => {
            eprintln!("{}", terminal::error(&format!("cannot read the dataflow file {name}: {e}")));
            return Ok(EXIT_USAGE);
        }
    };
    enter_folder(file)?;
    let environment = if arguments.no_environment { Environment::None } else { Environment::Here };
    let Checked { findings, files } = check(&text, Path::new(""), environment);
    let names = Names::new(file, &files);
    let wrong = findings.iter().any(|finding| finding.level == Level::Error || arguments.deny_warnings);
    if arguments.json {
        println!("{:#}", json!(findings.iter().map(|finding| finding.to_json(&names)).collect::<Vec<_>>()));
    } else {
        for finding in &findings {
            println!("{}", finding.to_text(&names));
        }
        println!("{name}: {}", summary(&findings));
    }
    Ok(if wrong { EXIT_CONFIG } else { 0 })
}

/// Paths in a dataflow file are relative to its folder, so that is where nodes run.
///
/// # Errors
/// When it cannot be entered.
pub fn enter_folder(file: &Path) -> Result<()> {
    match file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::env::set_current_dir(folder).with_context(|| format!("cannot enter {}", folder.display())),
        None => Ok(()),
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let words = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        n => format!("{n} {word}s"),
    };
    match (count(Level::Error), count(Level::Warning)) {
        (0, 0) => "nothing wrong".into(),
        (0, warnings) => words(warnings, "warning"),
        (errors, 0) => words(errors, "error"),
        (errors, warnings) => format!("{}, {}", words(errors, "error"), words(warnings, "warning")),
    }
}

/// What was found in a file.
pub struct Checked {
    /// Everything that is wrong, in the order of the file and then of its modules.
    pub findings: Vec<Finding>,
    /// The files that were read, relative to the folder; the dataflow file itself, the first, has no name here.
    pub files: Vec<PathBuf>,
}

/// Everything that is wrong with the text of a dataflow file in `folder` and with its modules.
pub fn check(text: &str, folder: &Path, environment: Environment) -> Checked {
    let shape::Reading { mut file, mut findings, files, written_out } = shape::read(text, folder);
    let here = environment != Environment::None;
    let (readable, missing) = variables::fill(written_out.as_deref().unwrap_or(text), &file, here);
    findings.extend(missing);
    let dora = Dataflow::parse(&readable);
    if let Ok(dataflow) = &dora {
        file.take_values(&dataflow.shared(), &dataflow.own());
    }
    let nodes = keys::settings(&file, here, &mut findings);
    wiring::check(&file, &mut findings);
    rules::check(&file, &nodes, &mut findings);
    plugins::check(&nodes, environment, &mut findings);
    if here {
        files::check(&file, &nodes, &mut findings);
        model::check(&nodes, &mut findings);
    }
    // dora says one thing at a time, often about what has been said above.
    if !findings.iter().any(|finding| finding.level == Level::Error) {
        findings.extend(doras(&dora, &file, written_out.is_none()));
    }
    findings.sort_by(|a, b| (a.at, a.level, &a.subject, a.kind).cmp(&(b.at, b.level, &b.subject, b.kind)));
    // A shared key is wrong once, not once a node.
    findings.dedup_by(|a, b| (a.at, a.kind) == (b.at, b.kind) && (a.found == b.found || a.kind == Kind::MissingFile));
    Checked { findings, files }
}

/// What dora itself finds: its reading of the file, its rules, and its strict types.
/// Lines that dora names are those of the file itself only `as_written`.
fn doras(dora: &Result<Dataflow, String>, file: &crate::dataflow::File, as_written: bool) -> Vec<Finding> {
    let whole = |text: String, kind| {
        let place = place_in(&text).filter(|_| as_written);
        let at = place.or_else(|| node_in(&text, file)).unwrap_or(Mark::START);
        vec![Finding::error(kind, at, "the dataflow", text, "wanted: a dataflow file that dora takes")]
    };
    let dataflow = match dora {
        Ok(dataflow) => dataflow,
        Err(text) => return whole(text.clone(), Kind::Dora),
    };
    if let Err(text) = dataflow.check() {
        return whole(text, Kind::Dora);
    }
    match dataflow.type_problems(Path::new(".")) {
        Err(text) => whole(text, Kind::EdgeType),
        Ok(problems) => {
            let finding = |(id, text): (String, String)| {
                let node = file.node(&id);
                let input = node
                    .and_then(|node| node.inputs.iter().find(|input| text.contains(&format!("\"{}\"", input.name))));
                let at = input.map(|input| input.source_at).or(node.map(|node| node.at)).unwrap_or(Mark::START);
                Finding::error(Kind::EdgeType, at, id, text, "wanted: types that agree (dora's strict types)")
            };
            problems.into_iter().map(finding).collect()
        }
    }
}

/// `line L column C` in a message.
fn place_in(text: &str) -> Option<Mark> {
    let rest = &text[text.rfind("line ")? + 5..];
    let (line, rest) = rest.split_once(" column ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(Mark { file: 0, line: line.parse().ok()?, column: digits.parse().ok()? })
}

/// The first node whose id a message names between backticks.
fn node_in(text: &str, file: &crate::dataflow::File) -> Option<Mark> {
    file.nodes.iter().find(|node| text.contains(&format!("`{}`", node.id))).map(|node| node.at)
}

#[cfg(test)]
#[path = "mutation_tests.rs"]
mod mutation_tests;
