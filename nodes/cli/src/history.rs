//! `difflow run --from STEP` and `--fork NAME`: which checkpoint a run continues from, decided before dora starts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use difflow_schema::lock::{self, LockError};
use difflow_schema::run::{Manifest, RunDir, sync_folder, write_atomically};
use eyre::{Context, Result, bail, ensure, eyre};
use serde::{Deserialize, Serialize};

use crate::experiment::Experiment;

/// fork.json of a run that began with another run's checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Fork {
    run: String,
    step: u64,
    checkpoint: String,
}

/// Does what was asked for to the run of an experiment, before it goes on.
///
/// # Errors
/// When there is no such checkpoint, it is damaged, or the run is being trained.
pub fn prepare(experiment: &Experiment, from: Option<u64>, fork: Option<&str>) -> Result<()> {
    let dir = experiment.dir();
    match (from, fork) {
        (_, Some(name)) => begin_with(&dir, experiment.name(), &experiment.beside(name)?, from),
        (Some(step), None) => go_back(&dir, step),
        (None, None) => Ok(()),
    }
}

/// Makes the checkpoint of `step` the run's last one; later ones are set aside, not removed.
fn go_back(dir: &RunDir, step: u64) -> Result<()> {
    let _lock = claim(dir)?;
    good(dir, step)?;
    for later in dir.checkpoint_steps()?.into_iter().filter(|&later| later > step) {
        let path = dir.checkpoint(later);
        let sha256 = Manifest::read(&path).map_or("damaged".to_owned(), |(_, sha256)| sha256[..8].to_owned());
        let aside = path.with_extension(format!("aside-{sha256}"));
        if aside.exists() {
            // Set aside before, and the same: its name is its content.
            fs::remove_dir_all(&aside).with_context(|| aside.display().to_string())?;
        }
        fs::rename(&path, &aside).with_context(|| format!("cannot move {} aside", path.display()))?;
        eprintln!("difflow: step {later} is set aside as {}", aside.display());
    }
    Ok(sync_folder(&dir.checkpoints())?)
}

/// Begins run `to` with a checkpoint of run `from`: that of `step`, or the last good one. A fork that was begun before goes on.
fn begin_with(from: &RunDir, name: &str, to: &RunDir, step: Option<u64>) -> Result<()> {
    ensure!(from != to, "--fork: found `{name}`, the run itself; wanted a new name");
    let fork = match fs::read(to.fork()) {
        Ok(text) => {
            let fork: Fork = serde_json::from_slice(&text).with_context(|| to.fork().display().to_string())?;
            let same = fork.run == name && step.is_none_or(|step| step == fork.step);
            let what = format!("{} began with step {} of run {}", to.root().display(), fork.step, fork.run);
            ensure!(same, "--fork: {what}; choose another name");
            fork
        }
        Err(_) if to.root().exists() => bail!("--fork: {} is there already; choose another name", to.root().display()),
        Err(_) => {
            let step = step.map_or_else(|| last_good(from), Ok)?;
            let fork = Fork { run: name.to_owned(), step, checkpoint: good(from, step)? };
            write_atomically(&to.fork(), &serde_json::to_vec_pretty(&fork)?)
                .with_context(|| format!("cannot write {}", to.fork().display()))?;
            fork
        }
    };
    let _lock = claim(to)?;
    if to.checkpoint_steps()?.last().is_some_and(|&last| last >= fork.step) {
        return Ok(());
    }
    let audit = from.audit();
    if audit.exists() {
        let text = fs::read(&audit).with_context(|| audit.display().to_string())?;
        write_atomically(&to.audit(), &text).with_context(|| to.audit().display().to_string())?;
    }
    // What was held out of the training so far must not be trained on now.
    if from.heldout().exists() && !to.heldout().exists() {
        fs::copy(from.heldout(), to.heldout())
            .with_context(|| format!("cannot copy {} to {}", from.heldout().display(), to.root().display()))?;
    }
    // The model before training comes along for the report; the fork's own step last, for it makes the fork whole.
    for step in [0, fork.step] {
        if from.checkpoint(step).exists() && !to.checkpoint(step).exists() {
            copy(&from.checkpoint(step), &to.checkpoint(step))
                .with_context(|| format!("cannot copy the checkpoint of step {step} to {}", to.root().display()))?;
        }
    }
    ensure!(good(to, fork.step)? == fork.checkpoint, "--fork: step {} of run {name} has changed since", fork.step);
    Ok(())
}

/// A folder's files under the folder's new name, all or none: linked where that can be, for checkpoints never change.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = partial.join(entry.file_name());
        if fs::hard_link(entry.path(), &copy).is_err() {
            fs::copy(entry.path(), &copy)?;
            fs::File::open(&copy)?.sync_all()?;
        }
    }
    sync_folder(&partial)?;
    fs::rename(&partial, to)?;
    Ok(sync_folder(to.parent().unwrap_or(Path::new(".")))?)
}

/// sha256 of the manifest of the checkpoint of `step`, whose files are as they were written.
fn good(dir: &RunDir, step: u64) -> Result<String> {
    let steps = dir.checkpoint_steps()?;
    if !steps.contains(&step) {
        let there: Vec<String> = steps.iter().map(u64::to_string).collect();
        bail!("--from: {} has no checkpoint of step {step}; it has: {}", dir.root().display(), there.join(", "));
    }
    Ok(Manifest::verify(&dir.checkpoint(step))?.1)
}

fn last_good(dir: &RunDir) -> Result<u64> {
    let steps = dir.checkpoint_steps()?;
    let last = steps.into_iter().rev().find(|&step| Manifest::verify(&dir.checkpoint(step)).is_ok());
    last.ok_or_else(|| eyre!("--fork: {} has no checkpoint", dir.root().display()))
}

fn claim(dir: &RunDir) -> Result<fs::File> {
    lock::take(&dir.lock(), Duration::ZERO).map_err(|e| match e {
        LockError::Taken { holder, .. } => {
            eyre!("{} is being trained by process {holder}; stop it first", dir.root().display())
        }
        e => eyre!("{e}; is there such a run?"),
    })
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
