//! A run that is watched while it lives, so that a test can do something to its processes.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Dataflow, Outcome, Process, family};

/// What a test waits for happens by then, or never.
const LONGEST: Duration = Duration::from_secs(3000);

/// One start of a dataflow, until it ends.
pub struct Life {
    child: Child,
    output: PathBuf,
    started: Instant,
    seen: BTreeSet<Process>,
}

impl Life {
    /// Starts `difflow run` on the dataflow; what it writes goes to a file.
    pub fn begin(dataflow: &Dataflow) -> Self {
        let output = dataflow.folder().join("output");
        let file = File::create(&output).expect("a file");
        let error = file.try_clone().expect("a second handle");
        let mut command = dataflow.command();
        let child = command.stdout(Stdio::from(file)).stderr(Stdio::from(error)).spawn().expect("difflow starts");
        Self { child, output, started: Instant::now(), seen: BTreeSet::new() }
    }

    /// Its processes that run now: difflow, dora, and the nodes.
    pub fn processes(&mut self) -> Vec<Process> {
        let now: Vec<Process> = family(self.child.id()).into_iter().filter(Process::alive).collect();
        self.seen.extend(now.iter().cloned());
        now
    }

    /// The process of a node, when it runs.
    pub fn node(&mut self, node: &str) -> Option<Process> {
        self.processes().into_iter().find(|process| process.node() == Some(node))
    }

    /// Whether the command still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("the program can be waited for").is_none()
    }

    /// Waits until `condition` holds; false when the command ends first.
    pub fn until(&mut self, mut condition: impl FnMut(&mut Self) -> bool) -> bool {
        while self.runs() {
            if condition(self) {
                return true;
            }
            assert!(self.started.elapsed() < LONGEST, "it does not happen: {}", self.text());
            sleep(Duration::from_millis(20));
        }
        false
    }

    /// Seconds since the start.
    pub fn age(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Sends the command a signal, as a person at the terminal does.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes two numbers; the child has not been waited for.
        unsafe { libc::kill(i32::try_from(self.child.id()).expect("a process id"), signal) };
    }

    /// What it has written so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Waits for the end of the command. One that is not over after `limit` fails the test, and ends.
    pub fn end(mut self, limit: Duration) -> (Outcome, Vec<Process>) {
        let asked = Instant::now();
        loop {
            self.processes();
            if let Some(status) = self.child.try_wait().expect("the program can be waited for") {
                let outcome = Outcome { code: status.code().unwrap_or(-1), text: self.text() };
                return (outcome, std::mem::take(&mut self.seen).into_iter().collect());
            }
            assert!(asked.elapsed() < limit, "not over after {limit:?}:\n{}", self.text());
            sleep(Duration::from_millis(50));
        }
    }
}

/// A test that fails leaves nothing running.
impl Drop for Life {
    fn drop(&mut self) {
        if self.runs() {
            self.processes();
        }
        for process in std::mem::take(&mut self.seen) {
            if std::thread::panicking() {
                process.signal(libc::SIGKILL);
            }
        }
    }
}

/// Waits until none of the processes runs any more.
pub fn all_gone(processes: &[Process], limit: Duration) {
    let started = Instant::now();
    loop {
        let alive: Vec<&Process> = processes.iter().filter(|process| process.alive()).collect();
        if alive.is_empty() {
            return;
        }
        if started.elapsed() >= limit {
            let names: Vec<&str> = alive.iter().map(|process| process.name.as_str()).collect();
            alive.iter().for_each(|process| process.signal(libc::SIGKILL));
            panic!("still running after {limit:?}: {names:?}");
        }
        sleep(Duration::from_millis(50));
    }
}
