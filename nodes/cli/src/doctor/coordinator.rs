//! dora's coordinator, through dora's own command: which daemons it has, and a dataflow that it starts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use eyre::{Context, Result, eyre};
use rustix::process::Pid;

use crate::doctor::collector::MARK;
use crate::doctor::words::Heard;
use crate::{dora, signals};

/// Characters of the number that dora puts behind a machine's id.
const NUMBER: usize = "-01a21f12-a0d7-75d7-a6da-35be28e2fcbb".len();
/// How long dora has beyond the collector's own time, to start the nodes and to end.
const BEYOND: Duration = Duration::from_secs(15);
/// How long dora has to stop a dataflow.
const STOPPING: Duration = Duration::from_secs(5);

/// dora's words about nodes that ended because another did, or did not begin: those that still wait for it are killed.
const CONSEQUENCES: [&str; 2] = ["This error occurred because node", "killed by dora"];

/// The coordinator that dora's commands speak with.
pub struct Coordinator {
    program: PathBuf,
    /// What the command line says of it; dora takes the rest from its own variables.
    options: Vec<String>,
}

/// What came of a dataflow.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the collector printed, by machine.
    pub heard: BTreeMap<String, Heard>,
    /// Why a node failed by itself, by the node's id.
    pub failed: BTreeMap<String, String>,
    /// dora's first words about an end that was not well.
    pub said: Option<String>,
}

impl Coordinator {
    /// That of these options.
    pub fn new(address: Option<&str>, port: Option<u16>) -> Self {
        let address = address.map(|address| format!("--coordinator-addr={address}"));
        let port = port.map(|port| format!("--coordinator-port={port}"));
        Self { program: dora::program(None), options: address.into_iter().chain(port).collect() }
    }

    /// Returns the ids of the machines whose daemons it has, or why it cannot be asked. Errors if there is no dora.
    pub fn machines(&self) -> Result<Result<Vec<String>, String>> {
        let output = Command::new(&self.program).args(["cluster", "status"]).args(&self.options).output();
        let output = output.with_context(|| format!("cannot start {}", self.program.display()))?;
        let error = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<String> = error.lines().map(str::to_owned).collect();
        Ok(if output.status.success() {
            Ok(machines(&String::from_utf8_lossy(&output.stdout)))
        } else {
            Err(dora::says(&lines).next().unwrap_or("dora says nothing").to_owned())
        })
    }

    /// Runs a dataflow whose collector takes `seconds` at most.
    ///
    /// # Errors
    /// When there is no dora, or it prints what cannot be read.
    pub fn run(&self, file: &Path, seconds: u64) -> Result<Outcome> {
        let mut child = dora::attach(&self.program, file, &self.options)?;
        let (sender, lines) = mpsc::channel();
        let pipes = child.stdout.take().zip(child.stderr.take());
        let (stdout, stderr) = pipes.ok_or_else(|| eyre!("dora has no pipes"))?;
        forward(stdout, sender.clone(), Ok::<String, String>);
        forward(stderr, sender, Err);
        let (mut outcome, mut errors) = (Outcome::default(), Vec::new());
        let (mut end, mut asked) = (Instant::now() + Duration::from_secs(seconds) + BEYOND, false);
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Err(line)) => errors.push(line),
                Ok(Ok(line)) => {
                    if let Some((_, text)) = line.split_once(MARK) {
                        let heard: Heard = serde_json::from_str(text).context("the collector's words")?;
                        outcome.heard.insert(heard.machine.clone(), heard);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                // The first time it is asked to stop the dataflow; a coordinator that stands still does not even do that.
                Err(RecvTimeoutError::Timeout) if asked => {
                    child.kill().context("cannot end dora")?;
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {
                    signals::interrupt(Pid::from_child(&child));
                    (end, asked) = (Instant::now() + STOPPING, true);
                }
            }
        }
        let status = child.wait().context("cannot wait for dora")?;
        if !status.success() {
            outcome.failed = failed(&errors);
            outcome.said = dora::says(&errors).next().map(str::to_owned);
        }
        Ok(outcome)
    }
}

/// Sends every line of a stream.
fn forward<T: Send + 'static>(stream: impl Read + Send + 'static, sender: mpsc::Sender<T>, wrap: fn(String) -> T) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if sender.send(wrap(String::from_utf8_lossy(&line).into_owned())).is_err() {
                break;
            }
        }
    });
}

/// The machine ids in what `dora cluster status` prints. A daemon without one has only a number.
fn machines(text: &str) -> Vec<String> {
    let rows = text.lines().skip_while(|line| !line.starts_with("DAEMON ID")).skip(1);
    let names = rows.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    let ids = names.filter_map(|name| name.get(..name.len().checked_sub(NUMBER)?)).filter(|id| !id.is_empty());
    let mut ids: Vec<String> = ids.map(str::to_owned).collect();
    ids.sort();
    ids
}

/// The nodes that failed by themselves, in what dora prints of a dataflow, and why.
fn failed(lines: &[String]) -> BTreeMap<String, String> {
    let mut failed = BTreeMap::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((node, first)) = line.strip_prefix("Node `").and_then(|line| line.split_once("` failed: ")) else {
            continue;
        };
        let more = lines[at + 1..].iter().map(|line| line.trim());
        let more =
            more.take_while(|line| !line.starts_with("Node `") && !["Location:", "Stack backtrace:"].contains(line));
        let words: Vec<&str> = [first]
            .into_iter()
            .chain(more)
            .filter(|line| !line.is_empty() && *line != "Caused by:" && !line.starts_with("---"))
            .collect();
        let text = words.join("; ");
        if !CONSEQUENCES.iter().any(|words| text.contains(words)) {
            failed.insert(node.to_owned(), text);
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As dora 1.1.0 prints it.
    #[test]
    fn machines_are_read_off_doras_table() {
        let text = "DAEMON ID                               LAST HEARTBEAT  RESTARTS\n\
                    A-01a21f12-a0d7-75d7-a6da-35be28e2fcbb  2544ms ago      0\n\
                    gpu-2-01a21f12-a0f8-735c-af8a-06dead77933d  3004ms ago      0\n\
                    01a21f12-a0f8-735c-af8a-06dead77933d    1ms ago         0\n\
                    \nActive dataflows: 0\n";
        assert_eq!(machines(text), ["A", "gpu-2"]);
        assert!(machines("No daemons connected.\n\nActive dataflows: 0\n").is_empty());
    }

    #[test]
    fn only_the_nodes_that_failed_by_themselves_are_named() {
        let text = "\n\n[ERROR]\nDataflow 01a21f12 failed:\n\nNode `probe-1` failed: failed to spawn node: no source `/x`\n\nCaused by:\n    \
                    Could not find source path /x\n\nLocation:\n    libraries/core:604:9\n\nNode `probe-0` failed: exited with code 1. \
                    This error occurred because node `probe-1` exited\n\nNode `collector` failed: node was killed by dora because it didn't \
                    react to a stop message in time (SIGKILL)\n\nLocation:\n    binaries/cli:52\n";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let found = failed(&lines);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["probe-1"]);
        assert_eq!(found["probe-1"], "failed to spawn node: no source `/x`; Could not find source path /x");
    }
}
