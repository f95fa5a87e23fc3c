//! `difflow init`: a folder with the default dataflow, its data and difflow's programs, for a run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use clap::Args;
use eyre::{Context, Result};

use crate::home;
use crate::terminal::error;
use crate::validate::{EXIT_CONFIG, EXIT_USAGE};

pub const EXAMPLES: &str = "\
Examples:
  difflow init demo && cd demo && difflow run
  difflow init long --experiment tiny-long

The folder is laid out like a checkout of difflow, so the commands of its documentation work there as they are written.

Exit codes: 0 done, 2 no such experiment, 78 the folder is not empty.";

const EXPERIMENTS: &str = "data/experiments";
/// What a dataflow file that is made for this folder need not keep.
const IGNORED: &str = "/bin\n/runs/\nout/\n";

#[derive(Args)]
pub struct Arguments {
    /// The folder: a new one, or an empty one.
    dir: PathBuf,
    /// An experiment of difflow's data/experiments to bring along, by its name.
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
}

/// Makes the folder. Returns the exit code. Errors if difflow's own files are not found, or the disk refuses it.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let Arguments { dir, experiment } = arguments;
    if let Some(found) = in_the_way(dir)? {
        eprintln!("{}", error(&format!("{}: found {found}; allowed: a new or an empty folder", dir.display())));
        return Ok(EXIT_CONFIG);
    }
    if let Some(name) = experiment {
        let known = experiments()?;
        if !known.contains(name) {
            let text = format!("--experiment: found `{name}`; allowed: {}", known.join(", "));
            eprintln!("{}", error(&text));
            return Ok(EXIT_USAGE);
        }
    }
    lay(dir, experiment.as_deref())?;
    println!("{}", next_steps(dir, experiment.as_deref())?);
    Ok(0)
}

/// Returns what keeps `dir` from being used, in words; `None` if it is new or empty. Errors if it cannot be read.
fn in_the_way(dir: &Path) -> Result<Option<String>> {
    if !dir.is_dir() {
        // A link to nowhere is in the way too.
        return Ok(dir.symlink_metadata().is_ok().then(|| "a file".to_owned()));
    }
    let cannot = || format!("cannot read the folder {}", dir.display());
    let first = fs::read_dir(dir).with_context(cannot)?.next().transpose().with_context(cannot)?;
    Ok(first.map(|entry| format!("a folder with `{}` in it", entry.file_name().display())))
}

/// Returns the names that `--experiment` takes. Errors if the folder of experiments is not found.
fn experiments() -> Result<Vec<String>> {
    let folder = home::find(EXPERIMENTS)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "yml") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Writes everything; dataflow.yml last, so that a folder that has it is whole.
fn lay(dir: &Path, experiment: Option<&str>) -> Result<()> {
    let nodes = home::find("nodes")?;
    for entry in fs::read_dir(&nodes).with_context(|| format!("cannot read {}", nodes.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".module.yml") {
            copy(&path, &dir.join("nodes").join(path.file_name().unwrap_or_default()))?;
        }
    }
    copy(&home::find("data/tiny")?, &dir.join("data/tiny"))?;
    if let Some(name) = experiment {
        for path in [format!("{EXPERIMENTS}/{name}.yml"), format!("{EXPERIMENTS}/shapes")] {
            copy(&home::find(&path)?, &dir.join(&path))?;
        }
    }
    let bin = dir.join("bin");
    symlink(home::programs()?, &bin).with_context(|| format!("cannot make the link {}", bin.display()))?;
    let ignored = dir.join(".gitignore");
    fs::write(&ignored, IGNORED).with_context(|| format!("cannot write {}", ignored.display()))?;
    copy(&home::find("dataflow.yml")?, &dir.join("dataflow.yml"))
}

/// Copies a file or a folder. Errors with the path that cannot be read or written.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        let folder = to.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let text = || format!("cannot copy {} to {}", from.display(), to.display());
        // Not `fs::copy`: an installation may be read-only, and its permissions would come along.
        return fs::write(to, fs::read(from).with_context(text)?).with_context(text);
    }
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Returns what to do in the folder.
fn next_steps(dir: &Path, experiment: Option<&str>) -> Result<String> {
    let file = experiment.map_or(String::new(), |name| format!(" {EXPERIMENTS}/{name}.yml"));
    let (dir, tutorial) = (dir.display(), home::find("docs/TUTORIAL.md")?);
    Ok(format!(
        "\
{dir}/ is made: dataflow.yml with its modules in nodes/, data/tiny, and bin, a link to difflow's programs. Next:

  cd {dir}
  difflow run{file}
  difflow runs
  difflow sample --checkpoint runs/NAME -n 3

{} goes on from there to a corpus, a base model and a schedule of your own.",
        tutorial.display()
    ))
}
