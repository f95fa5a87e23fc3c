//! The node processes of this dataflow on this machine, as the kernel sees them: which ones exist, and what resources
//! they use.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::time::Instant;

use procfs::process::{Process, all_processes};

/// What dora gives each node it starts: YAML that begins with the dataflow's and the node's id.
const NODE_CONFIG: &str = "DORA_NODE_CONFIG";

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Cores' worth of processor time since the last look; `None` at the first.
    pub cpu: Option<f64>,
    /// Resident memory in bytes.
    pub memory: u64,
}

/// The nodes found so far by id.
#[derive(Debug, Default)]
pub struct Processes {
    dataflow: Option<String>,
    /// Open while it is here, so that another process that gets the same number is not taken for it.
    found: BTreeMap<String, Process>,
    before: BTreeMap<String, (Instant, f64)>,
}

impl Processes {
    /// Those of the dataflow that this process is a node of.
    pub fn of_this_dataflow() -> Self {
        let own = std::env::var(NODE_CONFIG).ok();
        Self { dataflow: own.and_then(|config| line(&config, "dataflow_id").map(str::to_owned)), ..Self::default() }
    }

    /// Looks for processes that are not known yet. Reads the environment of every process of this user.
    pub fn search(&mut self) {
        let Some(dataflow) = &self.dataflow else { return };
        for process in all_processes().into_iter().flatten().flatten() {
            let Ok(environment) = process.environ() else { continue };
            let config = environment.get(OsStr::new(NODE_CONFIG)).map(|config| config.to_string_lossy());
            if let Some(node) = config.and_then(|config| node_of(&config, dataflow)) {
                self.found.insert(node, process);
            }
        }
    }

    /// Whether node `id` was ever found.
    pub fn known(&self, id: &str) -> bool {
        self.found.contains_key(id)
    }

    /// What node `id` uses; `None` when it is not running here.
    pub fn usage(&mut self, id: &str) -> Option<Usage> {
        let stat = self.found.get(id)?.stat().ok()?;
        // One that has ended and was not waited for (a zombie).
        if matches!(stat.state, 'Z' | 'X') {
            return None;
        }
        let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        let memory = stat.rss * procfs::page_size();
        let now = Instant::now();
        let before = self.before.insert(id.to_owned(), (now, seconds));
        let cpu = before.map(|(then, used)| {
            let passed = now.duration_since(then).as_secs_f64();
            if passed > 0.0 { ((seconds - used) / passed).max(0.0) } else { 0.0 }
        });
        Some(Usage { cpu, memory })
    }
}

/// The node that dora gave this to, if it belongs to `dataflow`.
fn node_of(config: &str, dataflow: &str) -> Option<String> {
    (line(config, "dataflow_id")? == dataflow).then(|| line(config, "node_id").map(str::to_owned)).flatten()
}

/// The value of a key that stands at the beginning of a line.
fn line<'a>(config: &'a str, key: &str) -> Option<&'a str> {
    config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(str::trim)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

    use super::*;

    fn measuring(id: &str, pid: u32) -> Processes {
        let process = Process::new(pid.try_into().unwrap()).unwrap();
        Processes { found: [(id.to_owned(), process)].into(), ..Processes::default() }
    }

    #[test]
    fn a_process_belongs_to_the_node_that_its_environment_names() {
        let config = "dataflow_id: 1-2\nnode_id: trainer\nrun_config:\n  node_id: x";
        assert_eq!(node_of(config, "1-2").as_deref(), Some("trainer"));
        assert_eq!(node_of(config, "1-3"), None);
        assert_eq!(node_of("", "1-2"), None);
    }

    #[test]
    fn nodes_are_found_by_what_dora_gave_them() {
        let mut child =
            Command::new("sleep").arg("60").env(NODE_CONFIG, "dataflow_id: 1-2\nnode_id: a").spawn().unwrap();
        let mut processes = Processes { dataflow: Some("1-2".into()), ..Processes::default() };
        // A new process has no environment for a moment, even after `spawn` returned.
        while !processes.known("a") {
            processes.search();
        }
        assert!(processes.usage("a").is_some() && !processes.known("b"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((processes.usage("a"), processes.known("a")), (None, true), "it has ended");
    }

    /// dora waits for a node only when it gets to it.
    #[test]
    fn one_that_has_ended_is_not_running_before_somebody_waits_for_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mut processes = measuring("child", child.id());
        assert!(processes.usage("child").is_some());
        child.kill().unwrap();
        // Returns when it has ended, and leaves it to be waited for.
        waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert_eq!(processes.usage("child"), None);
        child.wait().unwrap();
    }

    #[test]
    fn this_process_is_measured() {
        let mut processes = measuring("me", std::process::id());
        assert_eq!(processes.usage("me").unwrap().cpu, None);
        assert!(processes.usage("me").unwrap().cpu.is_some() && processes.usage("me").unwrap().memory > 1 << 20);
        assert_eq!(processes.usage("other"), None);
    }
}
