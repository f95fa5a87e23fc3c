//! The node processes of this dataflow on this machine, as the kernel sees them: which there are, and what they use.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

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
    pids: BTreeMap<String, u32>,
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
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
            if let Some(node) = node_of(&String::from_utf8_lossy(&environment), dataflow) {
                self.pids.insert(node, pid);
            }
        }
    }

    /// Whether node `id` was ever found.
    pub fn known(&self, id: &str) -> bool {
        self.pids.contains_key(id)
    }

    /// What node `id` uses; `None` when it is not running here.
    pub fn usage(&mut self, id: &str) -> Option<Usage> {
        let pid = self.pids.get(id)?;
        let (seconds, memory) = parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        let now = Instant::now();
        let before = self.before.insert(id.to_owned(), (now, seconds));
        let cpu = before.map(|(then, used)| {
            let passed = now.duration_since(then).as_secs_f64();
            if passed > 0.0 { ((seconds - used) / passed).max(0.0) } else { 0.0 }
        });
        Some(Usage { cpu, memory })
    }
}

/// The node whose environment this is, if it belongs to `dataflow`.
fn node_of(environment: &str, dataflow: &str) -> Option<String> {
    let mut variables = environment.split('\0').filter_map(|variable| variable.split_once('='));
    let (_, config) = variables.find(|(name, _)| *name == NODE_CONFIG)?;
    (line(config, "dataflow_id")? == dataflow).then(|| line(config, "node_id").map(str::to_owned)).flatten()
}

/// The value of a key that stands at the beginning of a line.
fn line<'a>(config: &'a str, key: &str) -> Option<&'a str> {
    config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(str::trim)
}

/// Seconds of processor time and bytes of memory from `/proc/PID/stat`; `None` for one that has ended (a zombie).
fn parse(stat: &str) -> Option<(f64, u64)> {
    // The name in brackets may hold anything, spaces and brackets too.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    Some(((number(11)? + number(12)?) as f64 / ticks.max(1) as f64, number(21)? * page.max(0) as u64))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_the_node_that_its_environment_names() {
        let environment =
            "HOME=/root\0DORA_NODE_CONFIG=dataflow_id: 1-2\nnode_id: trainer\nrun_config:\n  node_id: x\0A=b";
        assert_eq!(node_of(environment, "1-2").as_deref(), Some("trainer"));
        assert_eq!(node_of(environment, "1-3"), None);
        assert_eq!(node_of("HOME=/root\0", "1-2"), None);
    }

    #[test]
    fn the_kernels_numbers_are_read_behind_any_name() {
        let stat = |state: char| {
            let rest: Vec<String> = (1..40).map(|n| (n * 100).to_string()).collect();
            format!("7 (a) b) {state} {}", rest.join(" "))
        };
        let (seconds, memory) = parse(&stat('S')).unwrap();
        assert!(seconds > 0.0 && memory % 2100 == 0 && memory >= 2100);
        assert_eq!(parse(&stat('Z')), None);
    }

    #[test]
    fn this_process_is_measured() {
        let mut processes =
            Processes { dataflow: None, pids: [("me".to_owned(), std::process::id())].into(), ..Processes::default() };
        assert_eq!(processes.usage("me").unwrap().cpu, None);
        assert!(processes.usage("me").unwrap().cpu.is_some() && processes.usage("me").unwrap().memory > 1 << 20);
        assert_eq!(processes.usage("other"), None);
    }
}
