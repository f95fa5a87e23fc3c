//! `difflow run`: starts `dora run`, keeps its complete output in a file, and shows what matters to the user.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use eyre::{Context, Result};
use rustix::process::Pid;

use crate::chosen::Chosen;
use crate::dataflow::Assignment;
use crate::experiment::Experiment;
use crate::line::{Failure, Line, Reader, is_trace};
use crate::outcome::{culprit, exit_code};
use crate::terminal::{Terminal, error};
use crate::written_out::WrittenOut;
use crate::{dora, history, signals};

/// How long the other nodes have to end by themselves after one failed; then they are asked to stop.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Lines of a failed node that are looked through for its last words; most of them may be a stack trace.
const LAST_WORDS: usize = 60;

/// Which of dora's streams a line came on.
enum Raw {
    Out(String),
    Err(String),
}

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    chosen: Chosen,
    /// Train in so many processes: the trainer becomes a node for each. docs/RANKS.md says what that promises.
    #[arg(long, value_name = "N", default_value_t = 1)]
    ranks: usize,
    /// Go on from the checkpoint of this step, not from the last one; later ones are set aside.
    #[arg(long, value_name = "STEP")]
    from: Option<u64>,
    /// Begin a new run of this name with a checkpoint of the file's run: the last one, or that of --from. The file's keys may
    /// differ from those that the run began with. The same command again goes on with the new run.
    #[arg(long, value_name = "NAME")]
    fork: Option<String>,
    /// The dora program; default: `dora` beside this program, else on PATH.
    #[arg(long)]
    dora: Option<PathBuf>,
    /// Options for `dora run`.
    #[arg(last = true)]
    options: Vec<String>,
}

/// Runs a dataflow file. Returns the exit code.
///
/// # Errors
/// When --from or --fork cannot be done, dora cannot be started or its log file not written.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let Arguments { chosen, ranks, from, fork, .. } = arguments;
    let file = &chosen.file;
    let mut tree = match chosen.read(*ranks, &[])? {
        Ok(tree) => tree,
        Err(code) => return Ok(code),
    };
    if from.is_some() || fork.is_some() {
        history::prepare(&Experiment::of(&tree, file)?, *from, fork.as_deref())?;
    }
    if let Some(name) = fork {
        tree.set(&[Assignment::shared("RUN", name)]).map_err(|problem| eyre::eyre!(problem))?;
    }
    let (log_path, log) = log_file(file)?;
    let written_out = tree.written_out().map(|text| WrittenOut::new(file, &text, &log_path)).transpose()?;
    let file = written_out.as_ref().map_or(file.as_path(), WrittenOut::path);
    follow(&dora::program(arguments.dora.clone()), &arguments.options, file, &log_path, log)
}

/// Starts dora, and shows what it does until it ends. Returns the exit code.
///
/// # Errors
/// When dora cannot be started.
pub fn follow(dora: &Path, options: &[String], file: &Path, log_path: &Path, mut log: File) -> Result<u8> {
    signals::catch().context("cannot catch signals")?;
    let folder = log_path.parent().unwrap_or(Path::new(""));
    let mut child = dora::start(dora, file, options, folder)?;
    let pid = Pid::from_child(&child);
    signals::hand_on_to(Some(pid));
    let (sender, lines) = mpsc::channel();
    child.stdout.take().map(|stream| forward(stream, sender.clone(), Raw::Out));
    child.stderr.take().map(|stream| forward(stream, sender, Raw::Err));

    let mut view = View::new();
    let mut failed_at: Option<Instant> = None;
    let mut full_disk = false;
    loop {
        let raw = match lines.recv_timeout(Duration::from_millis(500)) {
            Ok(raw) => Some(raw),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some(raw) = raw {
            let (Raw::Out(line) | Raw::Err(line)) = &raw;
            // A full disk must not hide the nodes' own words about it: say it once, go on showing.
            let kept = log.write_all(line.as_bytes()).and_then(|()| log.write_all(b"\n"));
            if let (Err(e), false) = (kept, full_disk) {
                full_disk = true;
                view.terminal.notice(&error(&format!("cannot write {}: {e}", log_path.display())));
            }
            view.take(&raw);
        }
        if failed_at.is_none() && !view.failures.is_empty() {
            failed_at = Some(Instant::now());
        }
        if failed_at.is_some_and(|at| at.elapsed() >= AFTER_FAILURE) && !view.stopping {
            view.stopping = true;
            view.terminal.notice("difflow: stopping the other nodes");
            signals::interrupt(pid);
        }
    }
    let status = child.wait().context("cannot wait for dora")?;
    signals::hand_on_to(None);
    let code = exit_code(status, &view.failures);
    view.end(code, log_path);
    Ok(code)
}

/// Sends every line of a stream, as text whatever its bytes.
fn forward(stream: impl Read + Send + 'static, sender: Sender<Raw>, kind: fn(String) -> Raw) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if sender.send(kind(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())).is_err() {
                break;
            }
        }
    })
}

/// `out/NAME-SECONDS.log` beside the dataflow file, where dora keeps its own logs too.
fn log_file(file: &Path) -> Result<(PathBuf, File)> {
    let folder = file.parent().unwrap_or(Path::new("")).join("out");
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // Another run of the file may begin in the same second.
    let mut number = 0;
    loop {
        let more = if number == 0 { String::new() } else { format!("-{number}") };
        let path = folder.join(format!("{name}-{seconds}{more}.log"));
        match File::create_new(&path) {
            Ok(log) => return Ok((path, log)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(e).with_context(|| format!("cannot write {}", path.display())),
        }
    }
}

/// What has been shown and what is known of the run.
struct View {
    terminal: Terminal,
    reader: Reader,
    failures: Vec<Failure>,
    shown: BTreeSet<(String, String)>,
    quiet: BTreeMap<String, VecDeque<String>>,
    dora_errors: Vec<String>,
    stopping: bool,
}

impl View {
    fn new() -> Self {
        Self {
            terminal: Terminal::new(),
            reader: Reader::default(),
            failures: Vec::new(),
            shown: BTreeSet::new(),
            quiet: BTreeMap::new(),
            dora_errors: Vec::new(),
            stopping: false,
        }
    }

    fn take(&mut self, raw: &Raw) {
        let line = match raw {
            Raw::Out(line) => self.reader.read(line),
            Raw::Err(line) => return self.dora_errors.push(line.clone()),
        };
        match line {
            Line::Progress(text) => self.terminal.progress(&text),
            Line::Result(text) => self.terminal.result(&text),
            Line::Notice { who, text } => {
                self.terminal.notice(&format!("{who}: {text}"));
                self.shown.insert((who, text));
            }
            Line::Failed(failure) => self.failed(failure),
            Line::Quiet { who, text } => {
                let lines = self.quiet.entry(who).or_default();
                lines.push_back(text);
                if lines.len() > LAST_WORDS {
                    lines.pop_front();
                }
            }
            Line::Chatter => {}
        }
    }

    /// Shows what the node wrote before it failed and was not shown yet, such as the lines after an error, or a panic. dora
    /// repeats only the last ten lines of stderr with the failure, so they are taken from what came before.
    fn failed(&mut self, failure: Failure) {
        let said = self.quiet.remove(&failure.node).unwrap_or_default();
        let repeated = failure.stderr.iter().filter(|line| !said.contains(line));
        for line in said.iter().chain(repeated) {
            let shown = self.shown.contains(&(failure.node.clone(), line.clone()));
            if !(shown || line.trim().is_empty() || is_trace(line)) {
                self.terminal.notice(&format!("{}: {line}", failure.node));
            }
        }
        self.failures.push(failure);
    }

    /// The last words of a run that did not end well.
    fn end(mut self, code: u8, log: &Path) {
        if code == 0 {
            if signals::asked() {
                self.terminal.notice("difflow: stopped; the same command goes on from the last checkpoint");
            }
            return;
        }
        let what = match culprit(&self.failures) {
            Some(failure) => format!("node `{}` {}", failure.node, failure.how),
            None => {
                for line in dora::says(&self.dora_errors) {
                    self.terminal.notice(&format!("dora: {line}"));
                }
                format!("dora ended with exit code {code}")
            }
        };
        self.terminal.notice(&error(&what));
        self.terminal.notice(&format!("difflow: all that dora and the nodes wrote is in {}", log.display()));
    }
}
