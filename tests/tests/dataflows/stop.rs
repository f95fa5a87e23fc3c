//! `dora stop` during annealing, then the same again: the weights of a run that was never stopped.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use difflow_tests::{Dataflow, Outcome, program};

use crate::faults::same;
use crate::json;

const STEPS: u64 = 24;
const LIMIT: Duration = Duration::from_secs(90);

/// A coordinator and a daemon of the test's own: on ports and with a home of their own, so that others are not touched.
struct Dora {
    port: String,
    home: std::path::PathBuf,
    children: Vec<Child>,
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port().to_string()
}

impl Dora {
    fn up(home: &Path) -> Self {
        let mut dora = Self { port: free_port(), home: home.to_owned(), children: Vec::new() };
        let coordinator = dora.command(&["coordinator", "--quiet", "--port", &dora.port]);
        let daemon = dora.command(&[
            "daemon",
            "--quiet",
            "--zenoh-no-multicast",
            "--coordinator-port",
            &dora.port,
            "--local-listen-port",
            &free_port(),
        ]);
        for mut command in [coordinator, daemon] {
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            dora.children.push(child.expect("dora starts"));
            std::thread::sleep(Duration::from_secs(1));
        }
        dora
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("dora"));
        command
            .args(arguments)
            .env("DORA_COORDINATOR_PORT", &self.port)
            .env("HOME", &self.home)
            .current_dir(&self.home);
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments), LIMIT)
    }
}

impl Drop for Dora {
    fn drop(&mut self) {
        _ = self.command(&["down"]).output();
        for child in &mut self.children {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

#[test]
fn a_dataflow_stopped_with_dora_stop_goes_on_to_the_same_weights() {
    let whole = Dataflow::tiny(STEPS);
    whole.run().well();
    // So slow that it does not come to the end of annealing before it is stopped, on any machine.
    let broken = Dataflow::tiny(STEPS).set("trainer", "SLOW_DOWN_SECONDS", 2);
    let dora = Dora::up(broken.folder());
    let file = broken.write().display().to_string();
    dora.run(&["start", &file, "--detach", "--name", "broken"]).well();
    let checkpoints = broken.run_folder().join("checkpoints");
    let started = Instant::now();
    // Annealing ends at step 17.
    while !checkpoints.join("step-00000005").exists() {
        assert!(started.elapsed() < LIMIT, "no checkpoint of step 5");
        std::thread::sleep(Duration::from_millis(50));
    }
    dora.run(&["stop", "broken"]).well();
    let steps: Vec<u64> = std::fs::read_dir(&checkpoints)
        .expect("checkpoints")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
        .collect();
    let last = steps.iter().max().copied().expect("a checkpoint");
    assert!((5..17).contains(&last), "{steps:?}: not stopped during annealing");
    let manifest = json(&checkpoints.join(format!("step-{last:08}/manifest.json")));
    assert_eq!((&manifest["step"], &manifest["next_seq"]), (&last.into(), &last.into()));
    let broken = broken.set("trainer", "SLOW_DOWN_SECONDS", 0);
    broken.write();
    dora.run(&["start", &file, "--attach"]).well();
    same(&whole, &broken, STEPS);
}
