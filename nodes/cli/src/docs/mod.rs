//! `difflow docs`: the pages that are generated from the program, so that they cannot disagree with it. Hidden: users
//! read the pages.

mod config;
mod edges;
mod surface;

use std::path::Path;

use clap::{Command, ValueEnum};
use difflow_node_kit::dataflow::types_file;
use eyre::{Context, Result};

use crate::schema;

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Page {
    /// docs/CONFIG.md
    Config,
    /// docs/EDGES.md
    Edges,
    /// docs/dataflow.schema.json
    Schema,
    /// types/difflow/v1.yml
    Types,
    /// nodes/cli/tests/cli-surface.txt
    Surface,
}

impl Page {
    /// Where it lies in the checkout.
    pub fn path(self) -> &'static str {
        match self {
            Self::Config => "docs/CONFIG.md",
            Self::Edges => "docs/EDGES.md",
            Self::Schema => "docs/dataflow.schema.json",
            Self::Types => "types/difflow/v1.yml",
            Self::Surface => "nodes/cli/tests/cli-surface.txt",
        }
    }

    /// Its content.
    pub fn text(self, command: Command) -> String {
        match self {
            Self::Config => config::page(),
            Self::Edges => edges::page(),
            Self::Schema => format!("{:#}\n", schema::schema()),
            Self::Types => types_file(),
            Self::Surface => surface::page(command),
        }
    }
}

/// Prints a page, or writes all of them below a checkout.
///
/// # Errors
/// One cannot be written.
pub fn run(page: Option<Page>, write: Option<&Path>, command: Command) -> Result<()> {
    if let Some(page) = page {
        print!("{}", page.text(command));
        return Ok(());
    }
    for page in Page::value_variants() {
        match write {
            None => println!("{}", page.path()),
            Some(root) => {
                let path = root.join(page.path());
                let folder = path.parent().unwrap_or(root);
                std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
                std::fs::write(&path, page.text(command.clone()))
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Made again, each page is what lies in the checkout: `difflow docs --write .` mends it.
    #[test]
    fn the_pages_in_the_checkout_are_the_ones_that_are_made() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for page in Page::value_variants() {
            let there = std::fs::read_to_string(root.join(page.path())).unwrap_or_default();
            let made = page.text(crate::Arguments::command());
            let line = there.lines().zip(made.lines()).position(|(a, b)| a != b).map_or(0, |line| line + 1);
            assert!(there == made, "{} is not up to date (line {line}): difflow docs --write .", page.path());
        }
    }
}
