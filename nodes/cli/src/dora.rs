//! Finding and starting the dora program.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use eyre::{Context, Result, eyre};
use rustix::process::{Signal, set_parent_process_death_signal};

/// The dora program: the given one, else `dora` beside this program, else the one on PATH.
pub fn program(given: Option<PathBuf>) -> PathBuf {
    let beside =
        || std::env::current_exe().ok()?.parent().map(|folder| folder.join("dora")).filter(|path| path.exists());
    given.or_else(beside).unwrap_or_else(|| PathBuf::from("dora"))
}

/// What zenoh, over which nodes talk, is told: a connection is closed after a day without a word. By default that is ten seconds, and a dataflow
/// whose processes were all stopped for long would not go on. A process that ends closes its connections anyway.
const PATIENT: &str = "{ transport: { link: { tx: { lease: 86400000 } } } }\n";
/// The variables by which a person tells zenoh something else.
const ZENOH: [&str; 2] = ["DORA_ZENOH_CONFIG_OVERLAY", "ZENOH_CONFIG"];

/// Starts `dora run FILE` with its lines as JSON on pipes. `folder` is where dora keeps what it writes.
///
/// It gets its own process group: a Ctrl-C at the terminal then reaches this program only, which hands it on exactly once
/// (a second one makes dora kill the nodes).
///
/// # Errors
/// When there is no such program, or the folder cannot be written to.
pub fn start(program: &Path, file: &Path, options: &[String], folder: &Path) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg("run").arg(file).args(["--log-format", "json", "--log-level", "stdout"]).args(options);
    if ZENOH.iter().all(|variable| std::env::var_os(variable).is_none()) {
        let overlay = std::path::absolute(folder.join("zenoh.json5"))?;
        std::fs::write(&overlay, PATIENT).with_context(|| format!("cannot write {}", overlay.display()))?;
        command.env(ZENOH[0], overlay);
    }
    command.process_group(0);
    spawn(command)
}

/// Starts `dora start FILE --attach` with its lines on pipes. A Ctrl-C at the terminal reaches it, too: it then stops the dataflow.
///
/// # Errors
/// When there is no such program.
pub fn attach(program: &Path, file: &Path, options: &[String]) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg("start").arg(file).arg("--attach").args(options);
    spawn(command)
}

/// dora's error without its source location and stack trace.
pub fn says(lines: &[String]) -> impl Iterator<Item = &str> {
    let inside =
        lines.iter().map(|line| line.trim_end()).take_while(|line| !["Location:", "Stack backtrace:"].contains(line));
    inside.filter(|line| !line.is_empty() && *line != "[ERROR]")
}

/// Starts it with pipes. When this program dies without a word, the kernel asks dora to stop.
fn spawn(mut command: Command) -> Result<Child> {
    // Colours in its lines would only make them harder to read.
    command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let stop_with_parent = || Ok(set_parent_process_death_signal(Some(Signal::INT))?);
    // SAFETY: one system call, which touches no memory of ours and may be made between fork and exec.
    unsafe { command.pre_exec(stop_with_parent) };
    command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => eyre!(
            "there is no dora program `{}`; run `make setup`, put dora 1.1 on PATH, or name it with --dora",
            command.get_program().display()
        ),
        _ => eyre!("cannot start {}: {e}", command.get_program().display()),
    })
}
