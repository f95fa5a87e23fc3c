//! The processes of a run: who they are, and signals to them. Only processes that descend from the test's own child are ever
//! touched, and one is known by its id and its start together, for ids are used again.

use std::fs;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Name of its program.
    pub name: String,
    started: u64,
}

impl Process {
    /// The node that it runs, for a program of difflow's.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix("difflow-")
    }

    /// Whether it still runs; one that nobody has waited for does not.
    pub fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }

    /// Sends a signal if it still runs.
    pub fn signal(&self, signal: i32) {
        if self.alive() {
            // SAFETY: kill takes two numbers; the process descends from this test's child.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    /// Resident memory in KiB and open files; `None` when it is gone.
    pub fn load(&self) -> Option<(u64, usize)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let memory = line.trim().split(' ').next()?.parse().ok()?;
        Some((memory, fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.count()))
    }
}

struct Stat {
    parent: i32,
    state: char,
    started: u64,
}

/// /proc/PID/stat: what follows the name in brackets, which may hold anything.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Process `pid` and all that descend from it.
pub fn family(pid: u32) -> Vec<Process> {
    let pids = fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let all: Vec<(i32, Stat)> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut members = vec![i32::try_from(pid).expect("a process id")];
    let mut at = 0;
    while at < members.len() {
        let parent = members[at];
        members.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    let described = |pid: i32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let program = command.split('\0').next()?.rsplit('/').next()?.to_owned();
        Some(Process { pid, name: program, started: stat(pid)?.started })
    };
    members.into_iter().filter_map(described).collect()
}
