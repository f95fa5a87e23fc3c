//! What a line of `dora run --log-format json` means to a user.
//!
//! What dora 1.1 prints: one JSON object per log line on stdout; with `"level":"stdout"` it is a line of a node's
//! stdout or stderr (dora does not say which). A failed node is an ERROR line of target `daemon` with the node's last
//! stderr lines. In between are lines that are not JSON: build messages and the daemon's own log. dora's own errors
//! go to stderr.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

/// The program whose output is shown as it is.
const MONITOR: &str = "difflow-monitor";

/// One line, understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// The monitor's progress: replaced by the next one where the terminal can.
    Progress(String),
    /// Other output of the monitor.
    Result(String),
    /// A warning or an error that a node wrote, or dora's own, with who wrote it.
    Notice { who: String, text: String },
    /// A node ended with an error.
    Failed(Failure),
    /// Anything else that a node wrote: shown when that node fails.
    Quiet { who: String, text: String },
    /// Nothing a person needs.
    Chatter,
}

/// How a node failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Its id.
    pub node: String,
    /// How it ended, in dora's words: `exited with code 78`.
    pub how: String,
    /// Its exit code, if it had one.
    pub code: Option<u8>,
    /// True when it failed only because another node did.
    pub cascading: bool,
    /// The last lines of its stderr.
    pub stderr: Vec<String>,
}

#[derive(Deserialize)]
struct Record {
    node_id: Option<String>,
    level: String,
    target: Option<String>,
    message: String,
}

/// Understands lines; knows which nodes are monitors from the lines that say what is started.
#[derive(Debug, Default)]
pub struct Reader {
    monitors: BTreeSet<String>,
}

impl Reader {
    /// What a line of dora's stdout means.
    pub fn read(&mut self, line: &str) -> Line {
        let Ok(record) = serde_json::from_str::<Record>(line) else { return Line::Chatter };
        let target = record.target.as_deref().unwrap_or_default();
        match (record.level.as_str(), record.node_id) {
            ("stdout", Some(node)) => self.node_line(node, record.message),
            ("INFO", Some(node)) if target == "spawner" => {
                if is_monitor(&record.message) {
                    self.monitors.insert(node);
                }
                Line::Chatter
            }
            ("ERROR", Some(node)) if target == "daemon" => Line::Failed(failure(node, &record.message)),
            ("ERROR", node) => {
                let who = node.map_or("dora".to_owned(), |node| format!("dora: {node}"));
                Line::Notice { who, text: record.message }
            }
            _ => Line::Chatter,
        }
    }

    fn node_line(&self, node: String, text: String) -> Line {
        let notice = ["error:", "warning:"].iter().any(|start| text.starts_with(start));
        match (notice, self.monitors.contains(&node)) {
            (true, _) => Line::Notice { who: node, text },
            (false, true) if ["step ", "waiting for "].iter().any(|start| text.starts_with(start)) => {
                Line::Progress(text)
            }
            (false, true) => Line::Result(text),
            (false, false) => Line::Quiet { who: node, text },
        }
    }
}

/// Whether dora says that it starts a monitor: ``spawning `/path/difflow-monitor` in `/folder` ``.
fn is_monitor(message: &str) -> bool {
    let program = message.strip_prefix("spawning `").and_then(|rest| rest.split('`').next());
    program.and_then(|path| Path::new(path).file_name()) == Some(MONITOR.as_ref())
}

fn failure(node: String, message: &str) -> Failure {
    let mut lines = message.lines();
    let first = lines.next().unwrap_or_default();
    let how = first.split(" with stderr output").next().unwrap_or(first).to_owned();
    let digits = how.strip_prefix("exited with code ").unwrap_or_default();
    let code = digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    let ruler = |line: &str| line.len() > 20 && line.chars().all(|c| c == '-');
    let stderr = lines.filter(|line| !ruler(line)).map(str::to_owned).collect();
    Failure { node, how, code, cascading: message.contains("This error occurred because node"), stderr }
}

/// Whether a line belongs to a stack trace; the log file has them.
pub fn is_trace(text: &str) -> bool {
    let text = text.trim_start();
    let numbered = text.split_once(": ").is_some_and(|(n, _)| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()));
    numbered
        || text.starts_with("at ")
        || ["stack backtrace:", "note: "].iter().any(|s| text.to_lowercase().starts_with(s))
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
