//! Two machines on a network of their own, where the system lets a test make one: network namespaces, joined by a pair of virtual devices.

use std::process::{Command, Stdio};

/// The machines; they are gone with it.
pub struct Network {
    /// The names of the namespaces.
    machines: [String; 2],
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Network {
    /// `None` where the system does not allow it.
    pub fn new() -> Option<Self> {
        let name = |machine: &str| format!("difflow-{}-{machine}", std::process::id());
        let network = Self { machines: ["a", "b"].map(name) };
        let [a, b] = &network.machines;
        let mut steps = vec![
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("link add name eth0 netns {a} type veth peer name eth0 netns {b}"),
        ];
        for machine in 0..2 {
            let name = &network.machines[machine];
            steps.push(format!("-n {name} addr add {}/24 dev eth0", Self::address(machine)));
            steps.push(format!("-n {name} link set eth0 up"));
            steps.push(format!("-n {name} link set lo up"));
        }
        steps.iter().all(|step| ip(step)).then_some(network)
    }

    /// Of the first machine, or the second.
    pub fn address(machine: usize) -> String {
        format!("10.90.0.{}", machine + 1)
    }

    /// What stands before a command that runs on a machine.
    pub fn on(&self, machine: usize) -> [&str; 4] {
        ["ip", "netns", "exec", &self.machines[machine]]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for machine in &self.machines {
            ip(&format!("netns del {machine}"));
        }
    }
}
