//! dora's coordinator with daemons of a test's own: on ports and with a home of their own, so that others are not touched.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use difflow_tests::{Outcome, program};

use crate::network::Network;

const LIMIT: Duration = Duration::from_secs(60);

/// A coordinator and its daemons; they end with it.
pub struct Daemons {
    port: String,
    home: PathBuf,
    children: Vec<Child>,
    network: Option<Network>,
}

/// A port that nobody has.
pub fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port().to_string()
}

impl Daemons {
    /// A daemon for each of `machines`, with a variable of its environment; a single one without an id where there are none.
    pub fn up(home: &Path, machines: &[(&str, (&str, &Path))]) -> Self {
        let mut dora = Self::begin(home, None);
        if machines.is_empty() {
            let words = ["--local-listen-port", &free_port()].map(str::to_owned);
            dora.daemon(0, &words, None);
            dora.until("ms ago");
        }
        let machines: Vec<_> = machines.iter().map(|&(id, variable)| (id, Some(variable))).collect();
        dora.daemons(&machines);
        dora
    }

    /// Two daemons on machines of their own, where the system lets a test make a network for them; otherwise on this one.
    pub fn apart(home: &Path, machines: [&str; 2]) -> Self {
        let mut dora = Self::begin(home, Network::new());
        dora.daemons(&machines.map(|id| (id, None)));
        dora
    }

    /// Where others find a machine.
    pub fn address(&self, machine: usize) -> String {
        if self.network.is_some() { Network::address(machine) } else { "127.0.0.1".to_owned() }
    }

    fn begin(home: &Path, network: Option<Network>) -> Self {
        let mut dora = Self { port: free_port(), home: home.to_owned(), children: Vec::new(), network };
        let address = dora.address(0);
        let coordinator =
            dora.command("dora", &["coordinator", "--quiet", "--port", &dora.port, "--interface", &address]);
        dora.spawn(coordinator);
        dora.until("No daemons");
        dora
    }

    fn daemons(&mut self, machines: &[(&str, Option<(&str, &Path)>)]) {
        let doors: Vec<String> =
            (0..machines.len()).map(|machine| format!("{}:{}", self.address(machine), free_port())).collect();
        for (number, ((machine, variable), door)) in machines.iter().zip(&doors).enumerate() {
            let others = doors.iter().filter(|other| *other != door).map(|other| format!("tcp/{other}"));
            let others = others.collect::<Vec<_>>().join(",");
            let doors = ["--local-listen-port", &free_port(), "--zenoh-listen", door, "--zenoh-connect", &others];
            let words = [&["--machine-id", machine], &doors[..]].concat();
            self.daemon(number, &words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>(), *variable);
        }
        for (machine, _) in machines {
            self.until(&format!("\n{machine}-"));
        }
    }

    fn daemon(&mut self, machine: usize, words: &[String], variable: Option<(&str, &Path)>) {
        let mut all =
            ["daemon", "--quiet", "--zenoh-no-multicast", "--coordinator-port", &self.port].map(str::to_owned).to_vec();
        all.extend(["--coordinator-addr".to_owned(), self.address(0)]);
        all.extend_from_slice(words);
        let mut command = self.command_on(machine, "dora", &all);
        command.envs(variable);
        self.spawn(command);
    }

    /// A machine's daemon.
    pub fn daemon_of(&self, machine: usize) -> &Child {
        // The coordinator comes first.
        &self.children[machine + 1]
    }

    /// Kills a machine's daemon.
    pub fn kill(&mut self, machine: usize) {
        let daemon = &mut self.children[machine + 1];
        daemon.kill().expect("a daemon can be killed");
        daemon.wait().expect("a daemon can be waited for");
    }

    fn spawn(&mut self, mut command: Command) {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.children.push(child.expect("dora starts"));
    }

    /// Waits until `dora cluster status` says `part`.
    fn until(&self, part: &str) {
        let started = Instant::now();
        loop {
            let output = self.command("dora", &["cluster", "status"]).output().expect("dora starts");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if text.contains(part) {
                return;
            }
            assert!(started.elapsed() < LIMIT, "no `{part}` in\n{text}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A program of `bin/` that speaks with this coordinator.
    pub fn command(&self, name: &str, arguments: &[impl AsRef<OsStr>]) -> Command {
        self.command_on(0, name, arguments)
    }

    fn command_on(&self, machine: usize, name: &str, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = match &self.network {
            None => Command::new(program(name)),
            Some(network) => {
                let [first, rest @ ..] = network.on(machine);
                let mut command = Command::new(first);
                command.args(rest).arg(program(name));
                command
            }
        };
        command
            .args(arguments)
            .env("DORA_COORDINATOR_ADDR", self.address(0))
            .env("DORA_COORDINATOR_PORT", &self.port)
            .env("HOME", &self.home)
            .current_dir(&self.home);
        command
    }

    /// Runs dora's own command.
    pub fn run(&self, arguments: &[&str], limit: Duration) -> Outcome {
        Outcome::of(self.command("dora", arguments), limit)
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        _ = self.command("dora", &["down"]).output();
        for child in &mut self.children {
            _ = child.kill();
            _ = child.wait();
        }
    }
}
