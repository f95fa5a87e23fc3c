//! `difflow doctor --cluster`: asks every machine by a node of a small dataflow. Runs of several machines go the same way, through dora: its
//! coordinator starts the nodes, and their messages go from daemon to daemon.

use std::collections::BTreeSet;

use eyre::{Context, Result};

use crate::doctor::coordinator::{Coordinator, Outcome};
use crate::doctor::needs::{Needs, questions};
use crate::doctor::outline::{dataflow, probe_of};
use crate::doctor::{Arguments, Check, State, compare};
use crate::home;
use crate::terminal::error;
use crate::validate::EXIT_CONFIG;

fn bad(machine: Option<&str>, what: &'static str, found: String) -> Check {
    Check { machine: machine.map(str::to_owned), what, state: State::Bad, found }
}

/// Looks at all machines; where the command line or the file is wrong, says so and returns the exit code.
///
/// # Errors
/// When there is no dora, or the file cannot be read.
pub fn checks(arguments: &Arguments) -> Result<Result<Vec<Check>, u8>> {
    let mut machines = arguments.cluster.clone();
    let once: BTreeSet<&String> = machines.iter().collect();
    if once.len() < machines.len() || machines.iter().any(String::is_empty) {
        let found = machines.join(",");
        eprintln!("{}", error(&format!("--cluster: found `{found}`; wanted: ids of machines, each once, such as a,b")));
        return Ok(Err(EXIT_CONFIG));
    }
    let needs = arguments.file.as_deref().map(|file| Needs::read(file, arguments.set.clone(), &machines));
    let needs = match needs.transpose()? {
        Some(Err(code)) => return Ok(Err(code)),
        Some(Ok(needs)) => Some(needs),
        None => None,
    };
    if let Some(needs) = &needs {
        // The others are compared with the machine of rank 0.
        machines.sort_by_key(|machine| *machine != needs.leader);
    }
    let coordinator = Coordinator::new(arguments.coordinator_addr.as_deref(), arguments.coordinator_port);
    let connected = match coordinator.machines()? {
        Ok(connected) => connected,
        Err(why) => {
            let how = "start one (`dora coordinator`, and `dora daemon --machine-id ID` on each machine), or name it with \
                       --coordinator-addr and --coordinator-port";
            return Ok(Ok(vec![bad(None, "coordinator", format!("{why}; {how}"))]));
        }
    };
    let (mut there, missing): (Vec<String>, Vec<String>) =
        machines.iter().cloned().partition(|machine| connected.contains(machine));
    let mut checks: Vec<Check> = missing.iter().map(|machine| unconnected(machine, &connected)).collect();
    let program = std::env::current_exe().context("cannot find this program")?;
    let (mut said, mut outcome) = (None, Outcome::default());
    while !there.is_empty() {
        let folder = tempfile::tempdir().context("cannot make a folder for the dataflow file")?;
        let file = folder.path().join("doctor.yml");
        let asked = questions(needs.as_ref(), &there, &home::programs()?);
        std::fs::write(&file, dataflow(&program, &asked, arguments.timeout)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        outcome = coordinator.run(&file, arguments.timeout)?;
        said = outcome.said.take();
        // One node that cannot begin ends them all: the other machines are asked again without it.
        let failed: Vec<(String, String)> = there
            .iter()
            .enumerate()
            .filter(|(_, machine)| !outcome.heard.contains_key(*machine))
            .filter_map(|(i, machine)| Some((machine.clone(), outcome.failed.get(&probe_of(i))?.clone())))
            .collect();
        there.retain(|machine| failed.iter().all(|(failed, _)| failed != machine));
        if failed.is_empty() {
            break;
        }
        checks.extend(failed.into_iter().map(|(machine, why)| {
            let how = if why.contains("spawn") {
                format!("; difflow must be found under the same path on all machines, here {}", program.display())
            } else {
                String::new()
            };
            bad(Some(&machine), "probe", why + &how)
        }));
    }
    for machine in there.iter().filter(|machine| !outcome.heard.contains_key(*machine)) {
        let said = said.as_ref().map_or_else(String::new, |said| format!(" dora says: {said};"));
        let seconds = arguments.timeout;
        let why = format!(
            "no answer in {seconds} s (--timeout);{said} look at its daemon, and whether the daemons reach each other (`dora daemon --help`: --zenoh-listen, --zenoh-connect)"
        );
        checks.push(bad(Some(machine), "probe", why));
    }
    let heard: Vec<_> = machines.iter().filter_map(|machine| outcome.heard.remove(machine)).collect();
    checks.extend(compare::checks(&heard, needs.as_ref(), machines.len()));
    // By machine, in the order of the command line.
    checks.sort_by_key(|check| machines.iter().position(|machine| check.machine.as_ref() == Some(machine)));
    Ok(Ok(checks))
}

fn unconnected(machine: &str, connected: &[String]) -> Check {
    let have = if connected.is_empty() { "none".to_owned() } else { connected.join(", ") };
    let how = format!("start `dora daemon --machine-id {machine}` there, with the coordinator's address");
    bad(Some(machine), "daemon", format!("the coordinator has no daemon of that id (it has: {have}); {how}"))
}
