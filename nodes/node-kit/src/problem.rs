//! What is wrong with a configuration or an input, worded so that the user can fix it: exit code 78.

use std::fmt;

/// What sort of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// The node has no such key.
    UnknownKey,
    /// The value has another type, or is not in the list of choices.
    Type,
    /// The value has the right type and is outside its range.
    Range,
    /// The value breaks a rule of the node.
    #[default]
    Value,
    /// The value names a file that is not there or is not what it should be.
    File,
    /// The value names something that a server has, and the server does not answer as it should. Nothing is wrong with the value.
    Server,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// What sort of thing it is.
    pub kind: Kind,
    /// The key of the node's `env:` block.
    pub key: String,
    /// What was found there.
    pub found: String,
    /// What is allowed, or what to do.
    pub allowed: String,
}

impl Problem {
    /// Returns a problem with `key`, whose value is `found`; `allowed` says what would be right or what to do.
    pub fn new(key: impl Into<String>, found: impl fmt::Display, allowed: impl Into<String>) -> Self {
        Self { kind: Kind::Value, key: key.into(), found: found.to_string(), allowed: allowed.into() }
    }

    /// Returns the same problem as one of another sort.
    pub fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found `{}`; {}", self.key, self.found, self.allowed)
    }
}

/// Everything that is wrong, reported at once. A node that returns this ends with exit code 78, or 1 where only servers are at fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Errors if anything is wrong.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Whether nothing is wrong with the configuration: the same may do later.
    pub fn of_servers(&self) -> bool {
        self.0.iter().all(|problem| problem.kind == Kind::Server)
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}
