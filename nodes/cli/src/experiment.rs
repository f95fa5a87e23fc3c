//! Which run a dataflow file is about.

use std::path::Path;

use difflow_schema::run::RunDir;
use eyre::{Context, Result, bail, ensure};
use serde_json::Value;

/// The run that a dataflow file names with RUN and RUNS in its shared `env:`.
pub struct Experiment {
    /// Folder of all runs, relative to where this program was started.
    runs: std::path::PathBuf,
    run: String,
}

impl Experiment {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is no YAML mapping, or a value is one that only dora can expand.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let dataflow: Value = serde_saphyr::from_str(&text).with_context(|| format!("{}", file.display()))?;
        let of = |key: &str, default: &str| match dataflow.get("env").and_then(|env| env.get(key)) {
            None => Ok(default.to_owned()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(other) => bail!("{}: {key}: found {other}, wanted a text", file.display()),
        };
        let (runs, run) = (of("RUNS", "runs")?, of("RUN", "default")?);
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
        let dir = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Experiment::read(&file).map(|experiment| experiment.dir().root().to_owned())
        };
        assert_eq!(dir("nodes: []").unwrap(), folder.path().join("runs/default"));
        assert_eq!(dir("env:\n  RUN: tiny\n  RUNS: /somewhere").unwrap(), Path::new("/somewhere/tiny"));
        for wrong in ["env:\n  RUN: ../x", "env:\n  RUNS: $HOME/runs", "env:\n  RUN: [1]", "{"] {
            assert!(dir(wrong).is_err(), "{wrong}");
        }
    }
}
