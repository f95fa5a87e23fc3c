//! run.json as nodes write and compare it.
#![allow(clippy::unwrap_used)]

use std::fs;

use difflow_node_kit::record::{Writer, deciding, enter};
use difflow_node_kit::{Config, RunKeys};
use difflow_schema::Record;
use difflow_schema::run::RunDir;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Keys of a node.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
struct Example {
    #[serde(flatten)]
    run: RunKeys,
    /// How fast.
    learning_rate: f64,
    /// How far ahead.
    #[schemars(extend("x-may-change" = true))]
    prefetch: u64,
    /// Words.
    #[schemars(extend("x-by-content" = true))]
    tokenizer: Option<String>,
    /// Hush.
    #[schemars(extend("x-may-change" = true, "x-secret" = true))]
    token: String,
    /// Perhaps.
    limit: Option<u64>,
}

impl Default for Example {
    fn default() -> Self {
        let (run, token) = (RunKeys { name: "r".into(), ..RunKeys::default() }, "hush".into());
        Self { run, learning_rate: 3e-3, prefetch: 4, tokenizer: None, token, limit: None }
    }
}

impl Config for Example {
    fn run(&self) -> &RunKeys {
        &self.run
    }
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> RunDir {
        RunDir::new(self.0.path(), "r")
    }

    fn config(&self) -> Example {
        let mut config = Example::default();
        config.run.runs = self.0.path().display().to_string();
        config
    }

    fn begin(&self) {
        fs::create_dir_all(self.dir().checkpoint(0)).unwrap();
    }

    fn enter(&self, start: &str, change: impl FnOnce(&mut Example)) -> Result<(), String> {
        let mut config = self.config();
        change(&mut config);
        enter(&config, Writer { name: "trainer", program: "difflow-trainer", start }).map_err(|e| format!("{e:#}"))
    }

    fn record(&self) -> Record {
        Record::read(&self.dir()).unwrap().unwrap()
    }
}

#[test]
fn defaults_are_written_too_and_secrets_never() {
    let place = Place::new();
    place.enter("a", |_| {}).unwrap();
    let record = place.record();
    assert_eq!(record.configuration["trainer.PREFETCH"], 4);
    assert_eq!(record.configuration["trainer.LIMIT"], Value::Null);
    assert_eq!(record.nodes["trainer"], "difflow-trainer");
    assert!(!fs::read_to_string(place.dir().record()).unwrap().contains("hush"));
}

#[test]
fn a_changed_key_is_shown_with_both_values_unless_its_field_says_that_it_may_change() {
    let place = Place::new();
    place.enter("a", |_| {}).unwrap();
    place.begin();
    let text = place.enter("b", |config| config.learning_rate = 0.2).unwrap_err();
    assert!(text.contains("LEARNING_RATE") && text.contains("0.2") && text.contains("0.003"), "{text}");
    assert!(place.enter("b", |config| config.limit = Some(3)).unwrap_err().contains("began with null"));
    place.enter("b", |config| config.prefetch = 9).unwrap();
    assert_eq!(place.record().configuration["trainer.PREFETCH"], 9);
}

/// A run that was refused before it made anything kept the keys of that start for ever.
#[test]
fn a_run_without_a_checkpoint_is_bound_to_nothing() {
    let place = Place::new();
    place.enter("a", |config| config.learning_rate = 0.2).unwrap();
    place.enter("b", |_| {}).unwrap();
    assert_eq!(place.record().configuration["trainer.LEARNING_RATE"], 3e-3);
}

/// `difflow run --fork` lays checkpoints into a folder in which nothing has run; the keys may be others.
#[test]
fn a_fork_has_no_keys_to_keep() {
    let place = Place::new();
    place.begin();
    place.enter("a", |config| config.learning_rate = 0.2).unwrap();
    assert_eq!(place.record().configuration["trainer.LEARNING_RATE"], 0.2);
    // A node that was not there before.
    let config = Example { learning_rate: 0.7, ..place.config() };
    enter(&config, Writer { name: "second", program: "difflow-second", start: "b" }).unwrap();
    assert!(place.enter("b", |_| {}).is_err());
}

/// Records up to November 2026 hold the texts of the dataflow file, shared keys without a node, and keys that are none now.
#[test]
fn the_record_of_an_older_difflow_is_compared_by_what_its_texts_mean() {
    let place = Place::new();
    fs::create_dir_all(place.dir().root()).unwrap();
    let old = json!({"difflow": "0.1.0", "inputs": {"a": "b"}, "configuration": {
        "RUN": "r", "trainer.LEARNING_RATE": "3e-3", "TOKENIZER": "gone", "trainer.PREFETCH": 7, "noiser.LIMIT": 3,
    }});
    fs::write(place.dir().record(), old.to_string()).unwrap();
    place.begin();
    place.enter("b", |_| {}).unwrap();
    let record = place.record();
    assert_eq!((&record.inputs["a"], &record.configuration["trainer.LEARNING_RATE"]), (&"b".to_owned(), &json!(3e-3)));
    fs::write(place.dir().record(), old.to_string()).unwrap();
    assert!(place.enter("b", |config| config.learning_rate = 1e-3).unwrap_err().contains("LEARNING_RATE"));
    // It was not set, so the run began with the default.
    fs::write(place.dir().record(), old.to_string()).unwrap();
    let text = place.enter("b", |config| config.limit = Some(3)).unwrap_err();
    assert!(text.contains("LIMIT") && text.contains("its default"), "{text}");
    // The dataflow's own keys are those of every node.
    let shared = json!({"difflow": "0.1.0", "configuration": {"RUN": "r", "LIMIT": 3}});
    fs::write(place.dir().record(), shared.to_string()).unwrap();
    assert!(place.enter("b", |_| {}).unwrap_err().contains("LIMIT"));
    place.enter("b", |config| config.limit = Some(3)).unwrap();
}

/// A score was used again although MODEL_RECIPE was another one: the list of keys was written by hand and had forgotten it.
#[test]
fn every_key_decides_a_result_but_the_name_of_the_run_and_those_that_may_change() {
    let wanted = json!({"LEARNING_RATE": 3e-3, "TOKENIZER": null, "LIMIT": null});
    assert_eq!(deciding(&Example::default()), wanted);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named_with_its_key() {
    let place = Place::new();
    fs::write(place.0.path().join("r"), "a file").unwrap();
    assert!(place.enter("a", |_| {}).unwrap_err().starts_with("RUNS: found"));
}
