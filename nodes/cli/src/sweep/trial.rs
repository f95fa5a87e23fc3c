//! One run of a sweep: started, waited for, and measured.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use difflow_schema::run::RunDir;
use difflow_schema::{Checkpoint, Measured, Measurements};
use eyre::{Context, Result, bail, ensure, eyre};
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::records::run::Run;
use crate::signals;

/// How often a child is asked whether it has ended.
const BEAT: Duration = Duration::from_millis(100);

/// A run of a sweep.
pub struct One {
    /// Place of its trial in the table.
    pub trial: usize,
    pub seed: u64,
    pub dir: RunDir,
    pub name: String,
    /// Its keys, as `--set` takes them.
    pub set: Vec<String>,
}

/// What all runs of a sweep have in common.
pub struct Common<'a> {
    /// The sweep's file, and its dataflow's.
    pub sweep: &'a Path,
    pub dataflow: &'a Path,
    pub measure: &'a BTreeMap<String, String>,
}

impl One {
    /// Whether it has run with these keys and was measured by these commands.
    pub fn is_done(&self, common: &Common<'_>) -> bool {
        Measurements::read(&self.dir.measured()).is_ok_and(|measured| measured.settings == self.settings(common))
    }

    fn settings(&self, common: &Common<'_>) -> Value {
        json!({"set": self.set, "measure": common.measure})
    }

    /// Runs it, or goes on with it, and measures its last checkpoint. Returns whether it was done before somebody asked for the end.
    ///
    /// # Errors
    /// The run or a measure fails; the end of what they wrote is in it.
    pub fn run(&self, common: &Common<'_>) -> Result<bool> {
        let log = self.log(common)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").arg(common.dataflow).args(self.set.iter().map(|set| format!("--set={set}")));
        let written = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(written.try_clone()?).stderr(written);
        let status = waited(&mut command.spawn().context("cannot start `difflow run`")?)?;
        if signals::asked() {
            return Ok(false);
        }
        ensure!(status == Some(0), "{}: {}\n{}", self.name, ended(status), last_lines(&log));
        let Some(measured) = self.measured(common)? else { return Ok(false) };
        measured.write(&self.dir.measured())?;
        Ok(true)
    }

    fn log(&self, common: &Common<'_>) -> Result<PathBuf> {
        let folder = common.dataflow.parent().unwrap_or(Path::new("")).join("out");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(folder.join(format!("{}.log", self.name)))
    }

    /// `None` when somebody asked for the end.
    fn measured(&self, common: &Common<'_>) -> Result<Option<Measurements>> {
        let begin = Instant::now();
        let step = self.dir.checkpoint_steps()?.pop().ok_or_else(|| eyre!("{} has no checkpoint", self.name))?;
        let folder = self.dir.checkpoint(step);
        let checkpoint = Checkpoint::verified(&folder).map_err(|damage| eyre!("{}: {damage}", folder.display()))?;
        let mut metrics = BTreeMap::new();
        for (name, text) in common.measure {
            let Some(found) = self.ask(common, name, text, &folder)? else { return Ok(None) };
            metrics.extend(found.into_iter().map(|(key, value)| (format!("{name}.{key}"), Some(value))));
        }
        Ok(Some(Measurements {
            step,
            checkpoint_sha256: checkpoint.sha256,
            tokens_seen: checkpoint.tokens_seen,
            settings: self.settings(common),
            metrics,
            seconds: begin.elapsed().as_secs_f64(),
            content: Measured {},
        }))
    }

    /// The numbers that a command prints.
    fn ask(
        &self,
        common: &Common<'_>,
        name: &str,
        text: &str,
        checkpoint: &Path,
    ) -> Result<Option<BTreeMap<String, f64>>> {
        let own = std::env::current_exe()?;
        let programs = own.parent().unwrap_or(Path::new("")).to_owned();
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&others)))?;
        let out = tempfile::NamedTempFile::new()?;
        let log = File::options().append(true).open(self.log(common)?)?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(text).env("PATH", path).env("SEED", self.seed.to_string());
        command
            .env("CHECKPOINT", std::path::absolute(checkpoint)?)
            .env("RUN_DIR", std::path::absolute(self.dir.root())?);
        let folder = common.sweep.parent().filter(|folder| !folder.as_os_str().is_empty());
        command.current_dir(folder.unwrap_or(Path::new(".")));
        command.stdin(Stdio::null()).stdout(out.reopen()?).stderr(log);
        let status = waited(&mut command.spawn().context("cannot start `sh`")?)?;
        if signals::asked() {
            return Ok(None);
        }
        let printed = std::fs::read_to_string(out.path())?;
        let what = format!("{}: the measure `{name}`", self.name);
        ensure!(status == Some(0), "{what}: {}\n{}", ended(status), last_lines(&self.log(common)?));
        let last = printed.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        match serde_json::from_str(last) {
            Ok(Value::Object(fields)) => {
                Ok(Some(fields.into_iter().filter_map(|(key, value)| Some((key, value.as_f64()?))).collect()))
            }
            _ => bail!("{what}: found `{last}` as its last line; wanted a JSON object"),
        }
    }

    /// All numbers that there are of it: the last of each metric of the run, and those of the measures.
    ///
    /// # Errors
    /// Its files cannot be read.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let runs = self.dir.root().parent().unwrap_or(Path::new(""));
        let run = Run::open(runs, &self.name)?;
        // Keys are in the order of their steps: the last of a name stays.
        let mut metrics: BTreeMap<String, f64> =
            run.metrics.iter().map(|((_, name, _), value)| (name.clone(), *value)).collect();
        let measured = Measurements::read(&self.dir.measured())?.metrics;
        metrics.extend(measured.into_iter().filter_map(|(name, value)| Some((name, value?))));
        Ok(metrics)
    }
}

/// Waits for a child, to whom a wish to stop is handed on. Returns its exit code; `None` if a signal ended it.
fn waited(child: &mut Child) -> Result<Option<i32>> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if signals::asked() && !told {
            told = true;
            signals::interrupt(Pid::from_child(child));
        }
        thread::sleep(BEAT);
    }
}

fn ended(status: Option<i32>) -> String {
    status.map_or_else(|| "ended by a signal".to_owned(), |code| format!("ended with exit code {code}"))
}

/// The end of a log, for an error.
fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    format!("{}\n(all of it: {})", lines[lines.len().saturating_sub(12)..].join("\n"), log.display())
}
