//! The file of a sweep: which runs it is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use difflow_diffusion::keyed;
use difflow_schema::run::{RunDir, bytes_sha256};
use eyre::{Context, Result, bail, ensure, eyre};
use serde::Deserialize;
use serde_json::Value;

use crate::records::run::plain;

/// Keys of nodes with their values, as `--set` takes them.
pub type Keys = BTreeMap<String, Value>;

/// A sweep: runs of one dataflow file that differ by keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// The dataflow file, relative to this one.
    pub dataflow: PathBuf,
    /// Runs are called NAME-TRIAL-SEED.
    pub name: String,
    /// Every trial runs with each of them.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// Keys of all runs.
    #[serde(default)]
    pub set: Keys,
    /// Trials by name, in the order of the table.
    #[serde(default)]
    trials: Vec<Named>,
    /// Or every combination of these values.
    #[serde(default)]
    grid: BTreeMap<String, Vec<Value>>,
    /// Or values drawn at random.
    random: Option<Random>,
    /// Commands that measure the last checkpoint of a run, for `sh`, started in the folder of this file. CHECKPOINT, RUN_DIR and SEED are
    /// set. The last line that one prints is a JSON object, whose numbers become the metrics NAME.KEY.
    #[serde(default)]
    pub measure: BTreeMap<String, String>,
    /// Columns of the table; those of `difflow runs` where there are none.
    #[serde(default)]
    pub columns: Vec<Column>,
}

fn one_seed() -> Vec<u64> {
    vec![1]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    title: Option<String>,
    #[serde(default)]
    set: Keys,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Random {
    /// How many.
    trials: u64,
    /// Decides what is drawn.
    seed: u64,
    keys: BTreeMap<String, Range>,
}

/// What a value is drawn from.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Range {
    /// One of these, each as likely.
    Choice(Vec<Value>),
    /// A number between two, or one whose logarithm is.
    Between(Between),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Between {
    from: f64,
    to: f64,
    #[serde(default)]
    log: bool,
}

/// A column of the table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// A metric of the run, or of a measure: NAME.KEY.
    pub metric: String,
    pub title: Option<String>,
    /// Digits behind the point.
    #[serde(default = "three")]
    pub digits: usize,
}

fn three() -> usize {
    3
}

impl Column {
    /// Its heading.
    pub fn title(&self) -> &str {
        self.title.as_deref().unwrap_or(&self.metric)
    }
}

/// Runs that differ by their seeds only.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Part of its runs' names.
    pub name: String,
    pub title: String,
    /// What it changes.
    pub keys: Keys,
}

impl Sweep {
    /// Reads a sweep's file.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let sweep = Self::parse(&text).with_context(|| file.display().to_string())?;
        ensure!(sweep.file(file).is_file(), "{}: dataflow: there is no {}", file.display(), sweep.dataflow.display());
        Ok(sweep)
    }

    fn parse(text: &str) -> Result<Self> {
        let sweep: Self = serde_saphyr::from_str(text)?;
        if let Some(allowed) = RunDir::name_problem(&sweep.name) {
            bail!("name: found `{}`; {allowed}", sweep.name);
        }
        let kinds = [!sweep.trials.is_empty(), !sweep.grid.is_empty(), sweep.random.is_some()];
        ensure!(kinds.iter().filter(|&&there| there).count() == 1, "wanted one of `trials`, `grid` and `random`");
        ensure!(!sweep.seeds.is_empty(), "seeds: found none; wanted one or more numbers");
        let trials = sweep.trials()?;
        ensure!(!trials.is_empty(), "no trials: a key of `grid` has no values, or `random` has trials: 0");
        for (at, trial) in trials.iter().enumerate() {
            if let Some(allowed) = RunDir::name_problem(&trial.name) {
                bail!("trial `{}`: {allowed}", trial.name);
            }
            ensure!(
                !trials[..at].iter().any(|other| other.name == trial.name),
                "there are two trials `{}`",
                trial.name
            );
            for key in sweep.set.keys().chain(trial.keys.keys()) {
                ensure!(
                    !["RUN", "SEED"].contains(&key.as_str()),
                    "{key} is the sweep's own: `name` and `seeds` say it"
                );
            }
        }
        Ok(sweep)
    }

    /// The dataflow file, for the sweep's file.
    pub fn file(&self, sweep: &Path) -> PathBuf {
        sweep.parent().unwrap_or(Path::new("")).join(&self.dataflow)
    }

    /// All trials, in the order of the table.
    ///
    /// # Errors
    /// A range without values.
    pub fn trials(&self) -> Result<Vec<Trial>> {
        if !self.trials.is_empty() {
            let trial = |one: &Named| {
                let title = one.title.clone().unwrap_or_else(|| one.name.clone());
                Trial { name: one.name.clone(), title, keys: one.set.clone() }
            };
            return Ok(self.trials.iter().map(trial).collect());
        }
        let keys = match &self.random {
            Some(random) => (0..random.trials).map(|number| random.draw(number)).collect::<Result<Vec<_>>>()?,
            None => combinations(&self.grid),
        };
        Ok(keys.into_iter().map(unnamed).collect())
    }

    /// The keys of a run, as `--set` takes them.
    pub fn set(&self, trial: &Trial, seed: u64) -> Vec<String> {
        let own = [("RUN", self.run(trial, seed)), ("SEED", seed.to_string())];
        let own = own.iter().map(|(key, value)| format!("{key}={value}"));
        let all: BTreeMap<&String, &Value> = self.set.iter().chain(&trial.keys).collect();
        own.chain(all.iter().map(|(key, value)| format!("{key}={}", plain(value)))).collect()
    }

    /// The name of a run.
    pub fn run(&self, trial: &Trial, seed: u64) -> String {
        format!("{}-{}-{seed}", self.name, trial.name)
    }
}

impl Random {
    /// Keyed by trial and key: more trials, or another key, leave the others as they are.
    fn draw(&self, number: u64) -> Result<Keys> {
        let one = |(key, range): (&String, &Range)| {
            let key_number = u64::from_str_radix(&bytes_sha256(key.as_bytes())[..15], 16)?;
            let u = keyed::uniform(&mut keyed::rng(self.seed, "sweep", number, key_number));
            let value = match range {
                Range::Choice(values) => {
                    let at = (u * values.len() as f64) as usize;
                    values.get(at).cloned().ok_or_else(|| eyre!("{key}: found no values to draw from"))?
                }
                Range::Between(Between { from, to, log: false }) => from_number(from + u * (to - from)),
                Range::Between(Between { from, to, log: true }) => {
                    ensure!(*from > 0.0 && *to > 0.0, "{key}: found {from} to {to}; wanted numbers above 0 with `log`");
                    from_number((from.ln() + u * (to.ln() - from.ln())).exp())
                }
            };
            Ok((key.clone(), value))
        };
        self.keys.iter().map(one).collect()
    }
}

/// With four digits that count: names and tables are read by people.
fn from_number(x: f64) -> Value {
    format!("{x:.3e}").parse::<f64>().map_or(Value::Null, Value::from)
}

/// Every combination, the last key changing fastest.
fn combinations(grid: &BTreeMap<String, Vec<Value>>) -> Vec<Keys> {
    grid.iter().fold(vec![Keys::new()], |before, (key, values)| {
        let with = |keys: &Keys, value: &Value| {
            let mut keys = keys.clone();
            keys.insert(key.clone(), value.clone());
            keys
        };
        before.iter().flat_map(|keys| values.iter().map(|value| with(keys, value)).collect::<Vec<_>>()).collect()
    })
}

/// Named by a hash of its keys, so that a trial keeps its runs when the sweep gets more of them.
fn unnamed(keys: Keys) -> Trial {
    let title: Vec<String> = keys.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect();
    let title = title.join(", ");
    Trial { name: format!("k{}", &bytes_sha256(title.as_bytes())[..8]), title, keys }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn titles(kind: &str) -> Vec<String> {
        let sweep = Sweep::parse(&format!("dataflow: x.yml\nname: s\n{kind}")).unwrap();
        sweep.trials().unwrap().into_iter().map(|trial| trial.title).collect()
    }

    #[test]
    fn a_grid_is_every_combination() {
        let found = titles("grid: { STEPS: [10, 20], DECAY: [cosine, linear] }");
        let wanted = ["cosine, STEPS 10", "cosine, STEPS 20", "linear, STEPS 10", "linear, STEPS 20"];
        assert_eq!(found, wanted.map(|rest| format!("DECAY {rest}")));
    }

    /// Trials keep their names, and so their runs, when others are added.
    #[test]
    fn random_trials_are_the_same_each_time_and_in_range() {
        let text = |trials: u64, more: &str| {
            format!(
                "random: {{ trials: {trials}, seed: 3, keys: {{ LEARNING_RATE: {{ from: 1e-4, to: 1e-2, log: true }}{more} }} }}"
            )
        };
        let (few, many) = (titles(&text(4, "")), titles(&text(40, "")));
        assert_eq!(few, many[..4]);
        let rate = |title: &String| title.split([' ', ',']).nth(1).unwrap().parse::<f64>().unwrap();
        let rates: Vec<f64> = many.iter().map(rate).collect();
        assert!(rates.iter().all(|rate| (1e-4..=1e-2).contains(rate)), "{rates:?}");
        let low = rates.iter().filter(|&&rate| rate < 1e-3).count();
        assert!((10..=30).contains(&low), "half of the logarithms are below 1e-3: {low} of 40");
        let both = titles(&text(40, ", LORA_RANK: [4, 8]"));
        assert!(both.iter().zip(&many).all(|(both, one)| both.starts_with(one)), "{both:?}");
        assert!(["LORA_RANK 4", "LORA_RANK 8"].iter().all(|end| both.iter().any(|title| title.ends_with(end))));
    }

    #[test]
    fn a_run_gets_its_name_its_seed_and_the_trials_keys_over_those_of_all() {
        let text =
            "dataflow: x.yml\nname: s\nset: { STEPS: 5, BETA2: 0.9 }\ntrials: [{ name: long, set: { STEPS: 50 } }]";
        let sweep = Sweep::parse(text).unwrap();
        let trial = &sweep.trials().unwrap()[0];
        assert_eq!(sweep.set(trial, 7), ["RUN=s-long-7", "SEED=7", "BETA2=0.9", "STEPS=50"]);
    }

    #[test]
    fn the_sweeps_of_the_project_are_sweeps() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/sweeps");
        let sweep = |name: &str| Sweep::read(&folder.join(name)).unwrap();
        for name in ["ablation-tiny.yml", "ablation-tinystories.yml"] {
            let trials = sweep(name).trials().unwrap();
            let changed: Vec<usize> = trials.iter().map(|trial| trial.keys.len()).collect();
            assert_eq!(changed, [0, 1, 1, 1, 1, 1], "{name}");
        }
        let trials = sweep("sft-tiny.yml").trials().unwrap();
        let keys = |name: &str| &trials.iter().find(|trial| trial.name == name).unwrap().keys;
        assert_eq!(trials.len(), 10);
        for (key, value) in keys("hybrid") {
            if key != "LEARNING_RATE" {
                assert_eq!(keys("hybrid-lora").get(key), Some(value), "{key}");
            }
        }
        assert_eq!(keys("full-lora")["LORA_RANK"], 16);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |rest: &str| format!("{:#}", Sweep::parse(&format!("dataflow: x.yml\n{rest}")).unwrap_err());
        for (text, word) in [
            ("name: s", "one of `trials`, `grid` and `random`"),
            ("name: s\ngrid: { A: [1] }\ntrials: [{ name: a }]", "one of"),
            ("name: s\ngrid: { A: [] }", "no trials"),
            ("name: s\nseeds: []\ngrid: { A: [1] }", "seeds"),
            ("name: ../s\ngrid: { A: [1] }", "name"),
            ("name: s\ntrials: [{ name: a }, { name: a }]", "two trials `a`"),
            ("name: s\ngrid: { SEED: [1, 2] }", "`seeds`"),
            ("name: s\ngird: { A: [1] }", "gird"),
            ("name: s\nrandom: { trials: 1, seed: 1, keys: { A: { from: 0, to: 1, log: true } } }", "above 0"),
        ] {
            assert!(error(text).contains(word), "{text}: {}", error(text));
        }
    }
}
