//! What is looked at on this machine.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use difflow_model::{Compared, Device, nccl_library, self_test};
use difflow_schema::ports::PORTS;

use crate::doctor::{Check, State};
use crate::dora;

/// dora's version.
const DORA: &str = "1.1.0";
/// How to get it.
const FETCH: &str = "`make setup` fetches it in a checkout, `pip install dora-rs-cli==1.1.0` elsewhere";
/// Port of dora's coordinator.
const COORDINATOR: u16 = 6013;
/// Free memory under /dev/shm that eight nodes' pools and some batches need.
const SHARED_MEMORY: u64 = 128 << 20;
/// Free disk that a short run needs.
pub const DISK: u64 = 2 << 30;

fn check(what: &'static str, state: State, found: impl Into<String>) -> Check {
    Check { machine: None, what, state, found: found.into() }
}

/// Everything, and the device that is asked for.
pub fn checks(device: Option<&str>) -> Vec<Check> {
    let mut checks = vec![compiler(), tool("c++", "c++"), tool("make", "make"), tool("python", "python3")];
    checks.extend(torch());
    checks.extend([dora_program(), programs(), coordinator(), shared_memory(), disk(), plugins(), data()]);
    checks.extend(device.into_iter().flat_map(computes));
    checks
}

/// The first line that a program prints of its version.
pub fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Rust is needed for building only, and this program is built.
fn compiler() -> Check {
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    match version(Path::new("rustc")) {
        None => {
            check("rustc", State::Doubtful, format!("not on PATH; building needs Rust {wanted} (https://rustup.rs)"))
        }
        Some(found) => {
            let number = |text: &str| -> Vec<u32> { text.split('.').map_while(|part| part.parse().ok()).collect() };
            let own = found.split(' ').nth(1).map(number).unwrap_or_default();
            let state = if own >= number(wanted) { State::Good } else { State::Doubtful };
            let note = if state == State::Good { String::new() } else { format!("; building needs {wanted}") };
            check("rustc", state, format!("{found}{note}"))
        }
    }
}

fn tool(what: &'static str, program: &str) -> Check {
    match version(Path::new(program)) {
        Some(found) => check(what, State::Good, found),
        None => check(what, State::Doubtful, format!("no {program} on PATH; `make setup` and building need it")),
    }
}

/// The library of libtorch that this program has loaded.
pub fn torch_library() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    Some(line[line.find('/')?..].into())
}

fn torch() -> Vec<Check> {
    // This program is linked to libtorch: it would not have started without.
    let library = torch_library().map_or_else(|| "loaded".into(), |path| path.display().to_string());
    let loaded = check("libtorch", State::Good, library);
    let device = match Device::open("cuda") {
        Ok(device) => check("device", State::Good, device.to_string()),
        Err(e) => {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            check("device", State::Good, format!("cpu, {threads} threads (no CUDA: {e})"))
        }
    };
    vec![loaded, device]
}

/// Whether a device computes what the CPU computes, and whether it has difflow's own kernels.
fn computes(name: &str) -> Vec<Check> {
    let device = match Device::open(name) {
        Ok(device) => device,
        Err(e) => return vec![check("self-test", State::Bad, e.to_string())],
    };
    let kernels = match device.kernels() {
        Ok(()) => check("kernels", State::Good, format!("difflow's own, on {device}")),
        Err(why) => check("kernels", State::Doubtful, format!("torch's operations alone on {device}: {why}")),
    };
    let tested = match self_test(device) {
        Err(e) => check("self-test", State::Bad, e.to_string()),
        Ok(all) => {
            let differ: Vec<String> = all.iter().filter(|compared| !compared.holds()).map(told).collect();
            let worst = all.iter().map(|compared| compared.gradient).fold(0.0, f64::max);
            let found = format!("{} comparisons with the CPU on {device}, gradients within {worst:.0e}", all.len());
            match differ.as_slice() {
                [] => check("self-test", State::Good, found),
                some => check("self-test", State::Bad, format!("{} of {found}: {}", some.len(), some.join("; "))),
            }
        }
    };
    let ranks = (device != Device::Cpu).then(|| {
        let how = nccl_library()
            .map_or_else(|why| format!("through host memory, not by NCCL: {why}"), |()| "by NCCL".to_owned());
        check("ranks", State::Good, format!("they exchange what is on a GPU {how}"))
    });
    [kernels, tested].into_iter().chain(ranks).collect()
}

fn told(compared: &Compared) -> String {
    let Compared { what, loss, gradient, allowed } = compared;
    format!("{what}: loss off by {loss:.1e}, gradient by {gradient:.1e}, allowed {allowed:.0e}")
}

fn dora_program() -> Check {
    let program = dora::program(None);
    let (state, found) = judge_dora(version(&program).as_deref());
    let place = if state == State::Good { format!(" ({})", program.display()) } else { String::new() };
    check("dora", state, format!("{found}{place}"))
}

/// Whether what dora's program says of its version is the one that difflow speaks with.
pub fn judge_dora(found: Option<&str>) -> (State, String) {
    match found {
        Some(found) if found.contains(DORA) => (State::Good, found.to_owned()),
        Some(found) => (State::Bad, format!("{found}; wanted {DORA}: {FETCH}")),
        None => (State::Bad, format!("not there; {FETCH}")),
    }
}

/// The nodes beside this program, where dataflow files look for them.
fn programs() -> Check {
    let own = std::env::current_exe().ok();
    let folder = own.as_deref().and_then(Path::parent).map_or_else(PathBuf::new, Path::to_owned);
    let missing: Vec<&str> =
        PORTS.iter().map(|ports| ports.program).filter(|name| !folder.join(name).is_file()).collect();
    match missing.as_slice() {
        [] => check("nodes", State::Good, format!("all {} in {}", PORTS.len(), folder.display())),
        some => check(
            "nodes",
            State::Bad,
            format!("no {} in {}; `make build` puts them there", some.join(", "), folder.display()),
        ),
    }
}

/// `difflow run` and `dora run` need no port; `dora up` does.
fn coordinator() -> Check {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, COORDINATOR)) {
        Ok(_) => check("port 6013", State::Good, "free for `dora up`"),
        Err(e) => check(
            "port 6013",
            State::Doubtful,
            format!("{e}: a dora coordinator is up, or another program has it; `difflow run` needs none"),
        ),
    }
}

/// Free bytes of the file system of a path.
pub fn free(path: &Path) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|found| found.f_bavail * found.f_frsize)
}

fn space(what: &'static str, path: &str, wanted: u64, why: &str) -> Check {
    match free(Path::new(path)) {
        None => check(what, State::Doubtful, format!("{path} cannot be looked at")),
        Some(bytes) => {
            let state = if bytes >= wanted { State::Good } else { State::Doubtful };
            let found = format!("{:.1} GB free in {path}", bytes as f64 / 1e9);
            let note = if state == State::Good { String::new() } else { format!("; {why}") };
            check(what, state, format!("{found}{note}"))
        }
    }
}

fn shared_memory() -> Check {
    space(
        "shared memory",
        "/dev/shm",
        SHARED_MEMORY,
        "batches then travel through the heap, slower; a container may need --shm-size=1g",
    )
}

fn disk() -> Check {
    space("disk", ".", DISK, "`difflow plan` says what a run's checkpoints take")
}

fn plugins() -> Check {
    let found = difflow_plugin_host::candidates().len();
    check(
        "plug-ins",
        State::Good,
        format!(
            "{found} librar{} where plug-ins are looked for; `difflow plugin check` tries them",
            if found == 1 { "y" } else { "ies" }
        ),
    )
}

fn data() -> Check {
    match std::env::var_os("DIFFLOW_DATA_DIR") {
        None => check("real data", State::Good, "DIFFLOW_DATA_DIR is not set; the default run needs none"),
        Some(folder) if Path::new(&folder).is_dir() => check("real data", State::Good, folder.to_string_lossy()),
        Some(folder) => check(
            "real data",
            State::Doubtful,
            format!("DIFFLOW_DATA_DIR is {}, which is no folder", folder.to_string_lossy()),
        ),
    }
}
