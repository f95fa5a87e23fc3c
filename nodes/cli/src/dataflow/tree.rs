//! A dataflow file with its modules expanded, and every key in the place where the node finds it.

use std::path::{Path, PathBuf};

use crate::dataflow::assign::{self, Assignment};
use crate::dataflow::finding::{Finding, Kind};
use crate::dataflow::modules::Expander;
use crate::dataflow::ranks;
use crate::dataflow::write::write;
use crate::dataflow::yaml::{Mark, Node, parse};

/// What a file says.
pub struct Tree {
    pub root: Node,
    /// The files it was read from, relative to the dataflow file's folder; the dataflow file itself, the first, has no name.
    pub files: Vec<PathBuf>,
    /// What is wrong with it so far.
    pub findings: Vec<Finding>,
    /// True when the file itself is not what dora must read.
    changed: bool,
}

impl Tree {
    /// Reads the text of a dataflow file in `folder`.
    ///
    /// # Errors
    /// What is no YAML.
    pub fn read(text: &str, folder: &Path) -> Result<Self, Finding> {
        let document =
            parse(text).map_err(|e| Finding::error(Kind::YamlSyntax, e.at, "the file", e.problem, "wanted: YAML"))?;
        let duplicate = |(at, key): (Mark, String)| {
            Finding::error(
                Kind::DuplicateKey,
                at,
                key.clone(),
                format!("`{key}` a second time"),
                "wanted: each key once",
            )
        };
        let mut findings: Vec<Finding> = document.duplicates.into_iter().map(duplicate).collect();
        let mut root = document.root;
        let mut expander = Expander::new(folder);
        let modules = expander.expand(&mut root);
        findings.append(&mut expander.findings);
        let own = assign::distribute(&mut root, &mut findings);
        Ok(Self { root, files: expander.files, findings, changed: modules || own })
    }

    /// Changes keys for one run.
    ///
    /// # Errors
    /// Every key that no node has, a line each.
    pub fn set(&mut self, assignments: &[Assignment]) -> Result<(), String> {
        let problems: Vec<String> =
            assignments.iter().filter_map(|assignment| assign::set(&mut self.root, assignment).err()).collect();
        self.changed |= !assignments.is_empty();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }

    /// Makes several ranks of the trainer: [`ranks::expand`].
    ///
    /// # Errors
    /// Why that cannot be done.
    pub fn expand_ranks(&mut self, ranks: usize, machines: &[String], folder: &Path) -> Result<(), String> {
        // As the file is: its trainer may be behind a program of another name.
        if ranks == 1 && machines.is_empty() {
            return Ok(());
        }
        self.changed = true;
        ranks::expand(&mut self.root, ranks, machines, folder)
    }

    /// The text of a plain dataflow file that says the same.
    pub fn text(&self) -> String {
        write(&self.root)
    }

    /// The text that dora must read in the place of the file's own, if that is another one.
    pub fn written_out(&self) -> Option<String> {
        self.changed.then(|| self.text())
    }
}
