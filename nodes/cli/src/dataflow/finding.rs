//! What is wrong with a dataflow file, and where.

use std::path::{Path, PathBuf};

use difflow_node_kit::problem;
use serde_json::{Value, json};

use crate::dataflow::yaml::Mark;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The run would not start, or not do what the file says.
    Error,
    /// It would run, probably not as meant.
    Warning,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// The closed list of what can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    YamlSyntax,
    DuplicateKey,
    UnknownKey,
    MissingKey,
    WrongType,
    OutOfRange,
    WrongValue,
    DuplicateId,
    UnknownProgram,
    UnknownNode,
    UnknownOutput,
    UnknownInput,
    EdgeType,
    Cycle,
    NoTimer,
    Contradiction,
    MissingFile,
    MissingVariable,
    BadPlugin,
    Dora,
}

impl Kind {
    /// Its name in messages and in JSON.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// What to do about it.
    pub fn help(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::YamlSyntax => {
                ("yaml-syntax", "mend the YAML at this place; lines are indented with spaces, in steps of two")
            }
            Self::DuplicateKey => ("duplicate-key", "keep one of the two"),
            Self::UnknownKey => ("unknown-key", "correct the name, or remove the key; docs/CONFIG.md has all keys"),
            Self::MissingKey => ("missing-key", "add it; dataflow.yml of difflow is an example"),
            Self::WrongType => ("wrong-type", "write a value of that type; docs/CONFIG.md has all keys"),
            Self::OutOfRange => ("out-of-range", "choose a value in the range"),
            Self::WrongValue => ("wrong-value", "choose an allowed value; docs/CONFIG.md explains the key"),
            Self::DuplicateId => ("duplicate-id", "give every node an id of its own"),
            Self::UnknownProgram => ("unknown-program", "correct the name of the program"),
            Self::UnknownNode => ("unknown-node", "name a node of this file"),
            Self::UnknownOutput => ("unknown-output", "name an output of that node; docs/EDGES.md has all of them"),
            Self::UnknownInput => ("unknown-input", "name an input of this node; docs/EDGES.md has all of them"),
            Self::EdgeType => ("edge-type", "connect it to an output with that message; docs/EDGES.md has all of them"),
            Self::Cycle => ("cycle", "break the circle: each node in it waits for another one"),
            Self::NoTimer => (
                "no-timer",
                "add a monitor with `tick: dora/timer/millis/1000`: dora ends a dataflow that is silent for 120 s",
            ),
            Self::Contradiction => (
                "contradiction",
                "change one of the two; a key for several nodes belongs into the `env:` of the dataflow",
            ),
            Self::MissingFile => {
                ("missing-file", "correct the path, or make the file; paths are relative to the dataflow file")
            }
            Self::MissingVariable => ("missing-variable", "set the environment variable, or write the value itself"),
            Self::BadPlugin => {
                ("bad-plugin", "look at it with `difflow plugin check`; `difflow plugin list` shows what there is")
            }
            Self::Dora => ("dora", "this rule is dora's own; see its documentation of dataflow files"),
        }
    }
}

impl From<problem::Kind> for Kind {
    fn from(kind: problem::Kind) -> Self {
        match kind {
            problem::Kind::UnknownKey => Self::UnknownKey,
            problem::Kind::Type => Self::WrongType,
            problem::Kind::Range => Self::OutOfRange,
            problem::Kind::Value => Self::WrongValue,
            problem::Kind::File | problem::Kind::Server => Self::MissingFile,
        }
    }
}

/// The names of a dataflow file and its modules, for people.
pub struct Names(Vec<String>);

impl Names {
    /// For the dataflow file `file` and `files`, which are relative to its folder.
    pub fn new(file: &Path, files: &[PathBuf]) -> Self {
        let folder = file.parent().unwrap_or(Path::new(""));
        let modules = files.iter().skip(1).map(|module| folder.join(module));
        Self(std::iter::once(file.to_owned()).chain(modules).map(|path| path.display().to_string()).collect())
    }

    fn of(&self, at: Mark) -> &str {
        self.0.get(at.file).map_or("", String::as_str)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub at: Mark,
    pub level: Level,
    pub kind: Kind,
    /// What it is about, such as `trainer.STEPS`.
    pub subject: String,
    /// What stands there.
    pub found: String,
    /// What would be right.
    pub allowed: String,
}

impl Finding {
    /// An error.
    pub fn error(
        kind: Kind,
        at: Mark,
        subject: impl Into<String>,
        found: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        let (subject, found, allowed) = (subject.into(), found.into(), allowed.into());
        Self { at, level: Level::Error, kind, subject, found, allowed }
    }

    /// The same as a warning.
    pub fn warning(self) -> Self {
        Self { level: Level::Warning, ..self }
    }

    /// The finding as JSON.
    pub fn to_json(&self, names: &Names) -> Value {
        json!({
            "file": names.of(self.at),
            "line": self.at.line,
            "column": self.at.column,
            "level": self.level.name(),
            "kind": self.kind.name(),
            "subject": self.subject,
            "found": self.found,
            "allowed": self.allowed,
            "what_to_do": self.kind.help(),
        })
    }

    /// The finding in two lines: where and what; what to do.
    pub fn to_text(&self, names: &Names) -> String {
        format!(
            "{}:{}:{}: {} [{}] {}: found {}; {}\n    {}",
            names.of(self.at),
            self.at.line,
            self.at.column,
            self.level.name(),
            self.kind.name(),
            self.subject,
            self.found,
            self.allowed,
            self.kind.help()
        )
    }
}
