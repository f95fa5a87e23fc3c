//! The dataflow file of a command, with the keys that the command line changes.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use eyre::{Context, Result};

use crate::dataflow::{Assignment, Level, Names, Tree};
use crate::terminal::error;
use crate::validate::{EXIT_CONFIG, EXIT_USAGE};

/// A dataflow file and changed keys, as options of a command.
#[derive(Args)]
pub struct Chosen {
    /// The dataflow file.
    #[arg(default_value = "dataflow.yml")]
    pub file: PathBuf,
    /// Change a key for this run, in all nodes that have it, or with NODE.KEY in one; as often as needed.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Assignment>,
}

impl Chosen {
    /// A file with changed keys.
    pub fn of(file: &Path, set: Vec<Assignment>) -> Self {
        Self { file: file.to_owned(), set }
    }

    /// Returns what the file says with the changed keys and `ranks`, which are placed on `machines` where there are any;
    /// where that cannot run, says why on stderr and returns the exit code. Errors if the file cannot be read.
    pub fn read(&self, ranks: usize, machines: &[String]) -> Result<Result<Tree, u8>> {
        let file = &self.file;
        let refuse = |problem: &str, code: u8| {
            eprintln!("{problem}");
            Ok(Err(code))
        };
        if !file.is_file() {
            return refuse(&error(&format!("there is no dataflow file {}", file.display())), EXIT_USAGE);
        }
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let read = Tree::read(&String::from_utf8_lossy(&text), file.parent().unwrap_or(Path::new("")));
        let (findings, files, tree) = match read {
            Ok(mut tree) => (std::mem::take(&mut tree.findings), tree.files.clone(), Some(tree)),
            Err(finding) => (vec![finding], Vec::new(), None),
        };
        let names = Names::new(file, &files);
        let errors = findings.iter().filter(|finding| finding.level == Level::Error);
        let wrong: Vec<String> = errors.map(|finding| finding.to_text(&names)).collect();
        match tree {
            Some(mut tree) if wrong.is_empty() => {
                let folder = file.parent().unwrap_or(Path::new(""));
                let set = tree.set(&self.set);
                let expanded = set.and_then(|()| {
                    tree.expand_ranks(ranks, machines, folder).map_err(|problem| format!("--ranks: {problem}"))
                });
                match expanded {
                    Ok(()) => Ok(Ok(tree)),
                    Err(problems) => refuse(&error(&problems), EXIT_USAGE),
                }
            }
            _ => refuse(&wrong.join("\n"), EXIT_CONFIG),
        }
    }
}
