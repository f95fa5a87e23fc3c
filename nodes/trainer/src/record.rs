//! The lock, and the trainer's part of run.json: a run's name belongs to one process at a time, and to one base model
//! and corpus.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use difflow_model::Device;
use difflow_node_kit::{Problem, Problems};
use difflow_schema::audit::{self, Event};
use difflow_schema::lock::{self, LockError};
use difflow_schema::run::{RunDir, file_sha256};
use difflow_schema::{ExampleFacts, Facts, Record, TokenizerFacts};
use eyre::{Context, Result};
use serde_json::Value;

use crate::config::Config;
use crate::plugins::{self, Plugins};
use crate::save::Position;

/// Takes the run: locks its folder. Keep the file: dropping it gives the run back.
///
/// # Errors
/// When another process has it, or the folder cannot be written to.
pub fn claim(dir: &RunDir) -> Result<File, Problems> {
    let unwritable = |e: &dyn std::fmt::Display| {
        Problems::from(Problem::new("RUNS", dir.root().display(), format!("this folder cannot be written to: {e}")))
    };
    fs::create_dir_all(dir.root()).map_err(|e| unwritable(&e))?;
    let lock = match lock::take(&dir.lock(), Duration::ZERO) {
        Err(LockError::Taken { holder, .. }) => {
            let seconds = lock::PATIENCE.as_secs();
            eprintln!("warning: process {holder} has this run; waiting up to {seconds} s for it to end");
            lock::take(&dir.lock(), lock::PATIENCE)
        }
        taken => taken,
    };
    lock.map_err(|e| match e {
        LockError::Taken { holder, .. } => {
            let taken =
                format!("another process ({holder}) is training this run; wait for it, stop it, or choose another RUN");
            Problems::from(Problem::new("RUN", dir.root().display(), taken))
        }
        LockError::Io { source, .. } => unwritable(&source),
    })
}

/// What the trainer knows of the run before any batch comes.
#[derive(Debug, Clone)]
pub struct Made {
    /// sha256 of the base model's files.
    pub inputs: BTreeMap<String, String>,
    /// Those that the trainer's own keys name.
    pub plugins: Plugins,
    /// Where it trains.
    pub device: String,
    /// The fork that it began as, if it did.
    pub fork: Option<Value>,
}

impl Made {
    /// That of this process.
    ///
    /// # Errors
    /// When a file of BASE_MODEL or fork.json cannot be read.
    pub fn of(config: &Config, name: &str, dir: &RunDir) -> Result<Self> {
        let fork = match fs::read(dir.fork()) {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            text => {
                let text = text.with_context(|| format!("cannot read {}", dir.fork().display()))?;
                Some(serde_json::from_slice(&text).with_context(|| dir.fork().display().to_string())?)
            }
        };
        let inputs = inputs(Path::new(&config.base_model)).map_err(|e| {
            Problems::from(Problem::new("BASE_MODEL", &config.base_model, format!("cannot be read: {e}")))
        })?;
        let device = Device::open(&config.device)?.to_string();
        Ok(Self { inputs, plugins: plugins::own(config, name), device, fork })
    }
}

/// sha256 of every file of the base model that is read: its configuration, its weights (all parts), its tokenizer.
///
/// # Errors
/// The folder or one of the files cannot be read.
pub fn inputs(base: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        let read = ["json", "safetensors", "txt", "model"].map(Some);
        let ending = path.extension().and_then(|ending| ending.to_str());
        if path.is_file() && read.contains(&ending) {
            paths.push(path);
        }
    }
    // The parts of a large model together take as long as the longest.
    thread::scope(|scope| {
        let digests: Vec<_> = paths.iter().map(|path| scope.spawn(move || file_sha256(path))).collect();
        let named = paths.iter().zip(digests).map(|(path, digest)| {
            let digest = digest.join().map_err(|_| io::Error::other("a thread that reads a file panicked"))?;
            digest.map(|(sha256, _)| (path.display().to_string(), sha256))
        });
        named.collect()
    })
}

/// Compares what the run is made from with what it began with, and writes it down. `facts` is what came before the first batch, or
/// with it; a run that needs no batch has none.
///
/// # Errors
/// [`Problems`] with everything that is not as it was; otherwise when run.json cannot be used.
pub fn enter(dir: &RunDir, made: &Made, facts: Option<&Facts>) -> Result<()> {
    let steps = dir.checkpoint_steps().context("cannot list the checkpoints")?;
    let (begun, trained) = (!steps.is_empty(), steps.last().is_some_and(|&step| step > 0));
    let entered = Record::update(dir, |record| {
        let tokenizer = facts.and_then(|facts| facts.tokenizer.clone());
        let mut inputs = made.inputs.clone();
        inputs
            .extend(tokenizer.iter().map(|tokenizer| (tokenizer.path.display().to_string(), tokenizer.sha256.clone())));
        let mut plugins = made.plugins.clone();
        plugins.extend(facts.into_iter().flat_map(|facts| facts.plugins.clone()));
        if begun {
            let files = facts.map(|_| files(record, &inputs)).unwrap_or_default();
            let data = facts.map(|facts| data(record, facts, trained)).unwrap_or_default();
            Problems(files.into_iter().chain(data).collect()).into_result()?;
            for change in plugins::changes(&record.plugins, &plugins) {
                eprintln!("warning: {change}");
            }
            record
                .plugins
                .extend(plugins.into_iter().filter(|(key, _)| !record.plugins.contains_key(key)).collect::<Vec<_>>());
            record.inputs.extend(inputs);
        } else {
            (record.plugins, record.inputs) = (plugins, inputs);
        }
        record.revision = crate::REVISION.to_owned();
        let versions = [("dora", env!("DORA_VERSION")), ("libtorch", env!("LIBTORCH_VERSION"))];
        record.versions = versions.map(|(name, version)| (name.to_owned(), version.to_owned())).into();
        record.device.clone_from(&made.device);
        record.fork.clone_from(&made.fork);
        if let Some(facts) = facts {
            record.corpus.clone_from(&facts.corpus);
            // How long documents are is known later, and in each checkpoint.
            record.tokenizer = tokenizer.map(|tokenizer| TokenizerFacts { length_entropy: None, ..tokenizer });
        }
        Ok::<(), Problems>(())
    });
    Ok(entered.with_context(|| format!("the record of the run, {}", dir.record().display()))??)
}

/// Files that are not those that the run began with. One that lies elsewhere now is the same.
fn files(before: &Record, now: &BTreeMap<String, String>) -> Vec<Problem> {
    let changed = before.inputs.iter().filter(|(path, sha256)| match now.get(*path) {
        Some(now) => now != *sha256,
        None => !now.values().any(|now| now == *sha256),
    });
    let problem = |(path, _): (&String, _)| {
        Problem::new(path, "changed content", "this run began with another file; put it back, or choose another RUN")
    };
    changed.map(problem).collect()
}

/// Data that is not that which the run began with.
fn data(before: &Record, now: &Facts, trained: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    if trained && before.corpus.is_some() && before.corpus != now.corpus {
        let allowed = "this run began with other documents (files, SQL, TRANSFORMS, or which are held out): put them back, or choose \
                       another RUN";
        problems.push(Problem::new("SOURCES", "other documents", allowed));
    }
    let tokens = |tokenizer: &TokenizerFacts| (tokenizer.sha256.clone(), tokenizer.bos, tokenizer.eos);
    if let (Some(before), Some(now)) = (&before.tokenizer, &now.tokenizer)
        && tokens(before) != tokens(now)
    {
        let allowed = format!(
            "this run began with {} and the tokens {} and {}; put them back, or choose another RUN",
            before.path.display(),
            before.bos,
            before.eos
        );
        let found = format!("{} with the tokens {} and {}", now.path.display(), now.bos, now.eos);
        problems.push(Problem::new("TOKENIZER", found, allowed));
    }
    // The template's content counts, wherever its file is.
    let examples = |facts: &TokenizerFacts| {
        facts.examples.clone().map(|examples| ExampleFacts { template_file: None, ..examples })
    };
    if trained && before.tokenizer.as_ref().and_then(examples) != now.tokenizer.as_ref().and_then(examples) {
        let allowed = "this run began with another chat template (or another SEPARATOR, TURNS, PAD_POLICY or PACKING): put it back, or \
                       choose another RUN";
        problems.push(Problem::new("CHAT_TEMPLATE", "other examples", allowed));
    }
    problems
}

/// Notes in the audit that a process begins to train at `position`, from the checkpoint of that manifest sha256.
pub fn started(dir: &RunDir, Position { step, next_seq, .. }: Position, checkpoint: Option<String>) -> Result<()> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let event = Event::Started { step, next_seq, checkpoint, at };
    audit::append(&dir.audit(), &event).with_context(|| format!("cannot write {}", dir.audit().display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(inputs: &[(&str, &str)]) -> Made {
        let inputs = inputs.iter().map(|(path, sha256)| ((*path).to_owned(), (*sha256).to_owned())).collect();
        Made { inputs, plugins: Plugins::new(), device: "cpu".into(), fork: None }
    }

    fn facts(corpus: &str, sha256: &str) -> Facts {
        let tokenizer = TokenizerFacts {
            path: "/t.json".into(),
            sha256: sha256.into(),
            bos: 0,
            eos: 1,
            sequence_length: 8,
            length_entropy: Some(2.0),
            canvas: None,
            examples: None,
        };
        Facts { corpus: Some(corpus.into()), tokenizer: Some(tokenizer), ..Facts::default() }
    }

    #[test]
    fn what_a_run_was_made_from_is_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path(), "r");
        let made = Made { fork: Some(json!({"run": "a"})), ..made(&[("m/config.json", "1")]) };
        enter(&dir, &made, Some(&facts("c", "t"))).unwrap();
        let record = Record::read(&dir).unwrap().unwrap();
        assert_eq!(record.inputs.keys().collect::<Vec<_>>(), ["/t.json", "m/config.json"]);
        assert_eq!((record.corpus.as_deref(), record.device.as_str()), (Some("c"), "cpu"));
        assert!(record.versions.keys().eq(["dora", "libtorch"]) && !record.revision.is_empty());
        assert_eq!(record.fork.unwrap()["run"], "a");
    }

    /// Of a sharded model only config.json was recorded: other weights under the same name were trained on without a word.
    #[test]
    fn every_part_of_a_sharded_model_counts() {
        let folder = tempfile::tempdir().unwrap();
        let names =
            ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "tokenizer.json"];
        for name in names.into_iter().chain(["README.md"]) {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let found = inputs(folder.path()).unwrap();
        let mut wanted: Vec<String> = names.map(|name| folder.path().join(name).display().to_string()).into();
        wanted.sort();
        assert_eq!(found.keys().cloned().collect::<Vec<_>>(), wanted);
        fs::write(folder.path().join(names[2]), "others").unwrap();
        assert_ne!(inputs(folder.path()).unwrap(), found);
    }

    #[test]
    fn another_file_under_a_name_is_refused_and_the_same_file_elsewhere_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path(), "r");
        enter(&dir, &made(&[("m/model.safetensors", "1")]), Some(&facts("c", "t"))).unwrap();
        fs::create_dir_all(dir.checkpoint(0)).unwrap();
        enter(&dir, &made(&[("n/model.safetensors", "1")]), Some(&facts("c", "t"))).unwrap();
        let text = enter(&dir, &made(&[("m/model.safetensors", "2")]), Some(&facts("c", "t"))).unwrap_err().to_string();
        assert!(text.contains("m/model.safetensors: found `changed content`"), "{text}");
    }

    #[test]
    fn another_corpus_or_tokenizer_is_refused_once_something_depends_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path(), "r");
        let enter = |corpus, sha256| enter(&dir, &made(&[]), Some(&facts(corpus, sha256))).map_err(|e| e.to_string());
        enter("a", "t").unwrap();
        fs::create_dir_all(dir.checkpoint(0)).unwrap();
        enter("b", "t").unwrap();
        assert!(enter("b", "u").unwrap_err().contains("TOKENIZER: found"));
        fs::create_dir_all(dir.checkpoint(1)).unwrap();
        assert!(enter("a", "t").unwrap_err().contains("SOURCES: found `other documents`"));
        enter("b", "t").unwrap();
    }

    /// A template that was changed under its name would make other batches under the same numbers.
    #[test]
    fn another_chat_template_is_refused_and_the_same_elsewhere_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path(), "r");
        let with = |template: &str, file: &str| {
            let mut facts = facts("c", "t");
            let examples = ExampleFacts {
                template: Some(template.to_owned()),
                template_file: Some(file.into()),
                template_date: None,
                separator: String::new(),
                pad_policy: "eos-once".into(),
                turns: "apart".into(),
                several_a_row: true,
                fill_multiple: None,
            };
            facts.tokenizer.as_mut().unwrap().examples = Some(examples);
            enter(&dir, &made(&[]), Some(&facts)).map_err(|e| e.to_string())
        };
        with("a", "/a.jinja").unwrap();
        fs::create_dir_all(dir.checkpoint(1)).unwrap();
        with("a", "/b.jinja").unwrap();
        assert!(with("b", "/a.jinja").unwrap_err().contains("CHAT_TEMPLATE: found `other examples`"));
    }

    /// The record of a run of November 2026 names the tokenizer by the path of a key that went away.
    #[test]
    fn the_inputs_of_an_older_difflow_are_found_by_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path(), "r");
        fs::create_dir_all(dir.checkpoint(5)).unwrap();
        let old =
            json!({"difflow": "0.1.0", "configuration": {}, "inputs": {"a/tokenizer.json": "t", "m/config.json": "1"}});
        fs::write(dir.record(), old.to_string()).unwrap();
        enter(&dir, &made(&[("m/config.json", "1")]), Some(&facts("c", "t"))).unwrap();
        fs::write(dir.record(), old.to_string()).unwrap();
        assert!(enter(&dir, &made(&[("m/config.json", "1")]), Some(&facts("c", "u"))).is_err());
    }
}
