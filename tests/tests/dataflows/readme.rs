//! The README's other way to start a run: dora itself, from a shell.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, root};

/// The block of the README, word for word, on a short dataflow and with a port of its own; what it says of `make` is what these tests stand on.
#[test]
fn dora_up_and_start_from_a_shell_as_the_readme_has_it() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let block = readme.split("```sh\n").find(|text| text.contains("dora up")).unwrap();
    let commands: Vec<&str> =
        block.split("```").next().unwrap().lines().filter(|line| !line.starts_with("make ")).collect();
    assert!(commands.contains(&"dora start dataflow.yml --attach"), "{commands:?}");
    let dataflow = Dataflow::small(4);
    let folder = tempfile::tempdir().unwrap();
    symlink(root().join("bin"), folder.path().join("bin")).unwrap();
    symlink(dataflow.write(), folder.path().join("dataflow.yml")).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("bash");
    // Whatever happens, nothing is left running.
    command.args(["-ec", &format!("trap 'dora down || true' EXIT\n{}", commands.join("\n"))]);
    command.current_dir(folder.path()).env("DORA_COORDINATOR_PORT", port.to_string());
    Outcome::of(command, Duration::from_secs(150)).well().says(&["report:"]);
    assert!(dataflow.run_folder().join("checkpoints/step-00000004/model.safetensors").exists());
}
