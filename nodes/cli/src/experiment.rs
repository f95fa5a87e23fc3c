//! Which run a dataflow file refers to.

use std::path::Path;

use difflow_node_kit::RunKeys;
use difflow_schema::run::RunDir;
use eyre::{Result, bail, ensure};

use crate::dataflow::Tree;
use crate::dataflow::assign::as_dora_reads;
use crate::dataflow::yaml::Content;

/// The run that a dataflow file names with RUN and RUNS in its shared `env:`.
pub struct Experiment {
    /// Folder of all runs, relative to where this program was started.
    runs: std::path::PathBuf,
    run: String,
}

impl Experiment {
    /// Reads it off what `file` says.
    ///
    /// # Errors
    /// When RUN is no name, or RUNS is one that only dora can expand.
    pub fn of(tree: &Tree, file: &Path) -> Result<Self> {
        let of = |key: &str, default: &str| match tree.root.get("env").and_then(|env| env.get(key)) {
            None => Ok(default.to_owned()),
            Some(value) => match &value.content {
                Content::Scalar { text, .. } => Ok(as_dora_reads(text)),
                _ => bail!("{}: {key}: found {}, wanted a text", file.display(), value.what()),
            },
        };
        let RunKeys { name, runs } = RunKeys::default();
        let (runs, run) = (of("RUNS", &runs)?, of("RUN", &name)?);
        ensure!(!runs.contains('$'), "{}: RUNS: found `{runs}`; --from and --fork need it written out", file.display());
        let folder = file.parent().unwrap_or(Path::new(""));
        if let Some(allowed) = RunDir::name_problem(&run) {
            bail!("{}: RUN: found `{run}`; {allowed}", file.display());
        }
        Ok(Self { runs: folder.join(runs), run })
    }

    /// The run's folder.
    pub fn dir(&self) -> RunDir {
        RunDir::new(&self.runs, &self.run)
    }

    /// The folder of another run beside it.
    ///
    /// # Errors
    /// When that cannot be a run's name.
    pub fn beside(&self, run: &str) -> Result<RunDir> {
        match RunDir::name_problem(run) {
            // dora would hand a number on as a number, and another text with it.
            None if run.parse::<f64>().is_ok() => bail!("--fork: found `{run}`; allowed: a name that is no number"),
            None => Ok(RunDir::new(&self.runs, run)),
            Some(allowed) => bail!("--fork: found `{run}`; {allowed}"),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.run
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_run_lies_beside_its_file_unless_told_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.yml");
        let dir = |text: &str| -> Result<_> {
            let tree = Tree::read(text, folder.path()).map_err(|finding| eyre::eyre!("{}", finding.found))?;
            Ok(Experiment::of(&tree, &file)?.dir().root().to_owned())
        };
        assert_eq!(dir("nodes: []").unwrap(), folder.path().join("runs/default"));
        assert_eq!(dir("env:\n  RUN: tiny\n  RUNS: /somewhere").unwrap(), Path::new("/somewhere/tiny"));
        for wrong in ["env:\n  RUN: ../x", "env:\n  RUNS: $HOME/runs", "env:\n  RUN: [1]", "{"] {
            assert!(dir(wrong).is_err(), "{wrong}");
        }
    }
}
