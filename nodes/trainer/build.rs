//! The git revision that this program is built from, and the versions of libtorch and dora, for run.json.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rustc-env=DIFFLOW_REVISION={}", revision().unwrap_or_else(|| "unknown".into()));
    println!("cargo:rustc-env=DORA_VERSION={}", dora().unwrap_or_else(|| "unknown".into()));
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = std::env::var("LIBTORCH").unwrap_or_default();
    // The wheel and the archive keep it in different places.
    let version = ["build-version", "version.py"].iter().find_map(|name| {
        let path = Path::new(&libtorch).join(name);
        let text = std::fs::read_to_string(&path).ok()?;
        // One that is not there would count as changed at every build.
        println!("cargo:rerun-if-changed={}", path.display());
        match text.lines().find_map(|line| line.strip_prefix("__version__ = ")) {
            Some(version) => Some(version.trim_matches(['\'', '"']).to_owned()),
            None => text.lines().next().map(str::to_owned),
        }
    });
    println!("cargo:rustc-env=LIBTORCH_VERSION={}", version.unwrap_or_else(|| "unknown".into()));
}

/// The version that is locked.
fn dora() -> Option<String> {
    let lock = std::fs::read_to_string("../../Cargo.lock").ok()?;
    let (_, rest) = lock.split_once("name = \"dora-node-api\"\nversion = \"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// The commit, with `-dirty` where a tracked file is not as committed. `None` without git.
fn revision() -> Option<String> {
    // Anything that this program is built from may make it dirty.
    let own =
        ["src", "../schema", "../diffusion", "../node-kit", "../hub", "../model", "../../plugins", "../../Cargo.lock"];
    for path in own {
        println!("cargo:rerun-if-changed={path}");
    }
    // The log is written at every commit and checkout. The index is, too, but also by a mere `git status`.
    let git_path = |name| git(&["rev-parse", "--git-path", name]);
    let log = git_path("logs/HEAD").filter(|log| Path::new(log).exists());
    for path in [git_path("HEAD"), log.or_else(|| git_path("index"))] {
        println!("cargo:rerun-if-changed={}", path?);
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    // Without locks it leaves the index as it is.
    let changed = git(&["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
