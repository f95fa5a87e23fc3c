//! `difflow doctor`: is this machine ready, or a cluster of machines?

mod cluster;
mod collector;
mod compare;
#[cfg(test)]
mod compare_tests;
mod coordinator;
mod here;
mod needs;
mod network;
mod outline;
mod probe;
mod report;
mod words;

use std::path::PathBuf;

use clap::Args;
use eyre::Result;
use serde_json::{Value, json};

use crate::dataflow::Assignment;

pub use probe::run as probe;

pub const EXAMPLES: &str = "\
Examples:
  difflow doctor          look at toolchain, libtorch, devices, dora, ports, shared memory and disk
  difflow doctor --json   the same for scripts
  difflow doctor --device cuda
                          compute losses and gradients of small models there, and compare them with the CPU's
  difflow doctor --cluster a,b
                          whether the machines a and b of a dora cluster fit together: programs, libtorch, CPUs, GPUs, clocks
  difflow doctor --cluster a,b my.yml --set RENDEZVOUS=10.0.0.1:29500
                          also whether ranks of my.yml can meet there, and find the same files

Exit codes: 0 everything needed is there, 1 something is missing, 2 usage, 78 the machines or FILE cannot be used.";

#[derive(Args)]
pub struct Arguments {
    /// With --cluster: look also at what this dataflow file needs, as it is or as `difflow expand --machines` writes it.
    #[arg(requires = "cluster")]
    file: Option<PathBuf>,
    /// Look at these machines of a dora cluster instead: the ids of their daemons. The first is that of rank 0, unless FILE says otherwise.
    #[arg(long, value_name = "A,B", value_delimiter = ',', conflicts_with = "device")]
    cluster: Vec<String>,
    /// Change a key of FILE, as `difflow expand` does.
    #[arg(long, value_name = "KEY=VALUE", requires = "file")]
    set: Vec<Assignment>,
    /// Address of dora's coordinator; default: DORA_COORDINATOR_ADDR, else 127.0.0.1.
    #[arg(long, value_name = "IP", requires = "cluster")]
    coordinator_addr: Option<String>,
    /// Port of dora's coordinator; default: DORA_COORDINATOR_PORT, else 6013.
    #[arg(long, value_name = "PORT", requires = "cluster")]
    coordinator_port: Option<u16>,
    /// Seconds after which a machine of the cluster that has not answered is bad. Reading a large base model takes some.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Also test a device: auto, cpu, cuda or cuda:N.
    #[arg(long)]
    device: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// A run works, something else may not.
    Doubtful,
    Bad,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Doubtful => "look",
            Self::Bad => "BAD",
        }
    }
}

#[derive(Debug)]
struct Check {
    /// Of a cluster: the id of the machine, where it is about one.
    machine: Option<String>,
    what: &'static str,
    state: State,
    found: String,
}

impl Check {
    fn to_json(&self) -> Value {
        let mut value = json!({"what": self.what, "state": self.state.name(), "found": self.found});
        if let Some(machine) = &self.machine {
            value["machine"] = machine.as_str().into();
        }
        value
    }
}

/// Looks at everything and prints it. Returns the exit code.
///
/// # Errors
/// When dora cannot be started for a cluster, or FILE cannot be read; what cannot be looked at is bad.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let checks = if arguments.cluster.is_empty() {
        here::checks(arguments.device.as_deref())
    } else {
        match cluster::checks(arguments)? {
            Ok(checks) => checks,
            Err(code) => return Ok(code),
        }
    };
    if arguments.json {
        println!("{:#}", json!(checks.iter().map(Check::to_json).collect::<Vec<_>>()));
    } else {
        let width = checks.iter().filter_map(|c| c.machine.as_ref()).map(|machine| machine.chars().count() + 1).max();
        for c in &checks {
            let machine =
                width.map_or_else(String::new, |width| format!("{:<width$}", c.machine.as_deref().unwrap_or_default()));
            println!("{:<5} {machine}{:<14} {}", c.state.name(), c.what, c.found);
        }
    }
    Ok(u8::from(checks.iter().any(|c| c.state == State::Bad)))
}
