//! dora's coordinator with daemons of a test's own: on ports and with a home of their own, so that others are not touched.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use difflow_tests::{Outcome, program};

const LIMIT: Duration = Duration::from_secs(60);

/// A coordinator and its daemons; they end with it.
pub struct Daemons {
    port: String,
    home: PathBuf,
    children: Vec<Child>,
}

/// A port that nobody has.
pub fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port().to_string()
}

impl Daemons {
    /// A daemon for each of `machines`, with a variable of its environment; a single one without an id where there are none.
    pub fn up(home: &Path, machines: &[(&str, (&str, &Path))]) -> Self {
        let mut dora = Self { port: free_port(), home: home.to_owned(), children: Vec::new() };
        let coordinator = dora.command("dora", &["coordinator", "--quiet", "--port", &dora.port]);
        dora.spawn(coordinator);
        dora.until("No daemons");
        let daemon = ["daemon", "--quiet", "--zenoh-no-multicast", "--coordinator-port", &dora.port].map(str::to_owned);
        let daemon =
            |more: &[&str]| [&daemon[..], &more.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()].concat();
        if machines.is_empty() {
            let words = daemon(&["--local-listen-port", &free_port()]);
            dora.spawn(dora.command("dora", &words));
            dora.until("ms ago");
        }
        let doors: Vec<String> = machines.iter().map(|_| format!("127.0.0.1:{}", free_port())).collect();
        for ((machine, (key, value)), door) in machines.iter().zip(&doors) {
            let others = doors.iter().filter(|other| *other != door).map(|other| format!("tcp/{other}"));
            let others = others.collect::<Vec<_>>().join(",");
            let doors = ["--local-listen-port", &free_port(), "--zenoh-listen", door, "--zenoh-connect", &others];
            let words = daemon(&[&["--machine-id", machine], &doors[..]].concat());
            let mut command = dora.command("dora", &words);
            command.env(key, value);
            dora.spawn(command);
        }
        for (machine, _) in machines {
            dora.until(&format!("\n{machine}-"));
        }
        dora
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
    pub fn command(&self, name: &str, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut command = Command::new(program(name));
        command
            .args(arguments)
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
