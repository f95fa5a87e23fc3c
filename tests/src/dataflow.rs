//! A dataflow file of the repository with some keys changed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{Outcome, program, root};

/// A test's own copy of a dataflow file, in a folder of its own that is removed at the end.
pub struct Dataflow {
    folder: TempDir,
    value: Value,
    ranks: usize,
}

/// Keys whose values are paths, relative to the dataflow file.
const PATHS: [&str; 5] = ["BASE_MODEL", "TOKENIZER", "HELDOUT", "INFILL", "RUNS"];

impl Dataflow {
    /// `file` of the repository, with all its paths made absolute; runs go into the test's folder.
    pub fn open(file: &str) -> Self {
        let path = root().join(file);
        // With its modules written out.
        let expanded = Command::new(program("difflow")).arg("expand").arg(&path).output().expect("difflow starts");
        assert!(expanded.status.success(), "{}", String::from_utf8_lossy(&expanded.stderr));
        let text = String::from_utf8_lossy(&expanded.stdout);
        let value: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let base = path.parent().expect("a file lies in a folder").to_owned();
        let mut dataflow = Self { folder: tempfile::tempdir().expect("a temporary folder"), value, ranks: 1 };
        for node in dataflow.value["nodes"].as_array_mut().expect("nodes") {
            let program = base.join(node["path"].as_str().expect("path"));
            node["path"] = Value::from(program.display().to_string());
            absolute(&base, node);
        }
        absolute(&base, &mut dataflow.value);
        let runs = dataflow.folder.path().join("runs").display().to_string();
        // Tests run side by side, and only one of them could have the page's port.
        dataflow.set("", "RUNS", runs).set("monitor", "PAGE", false)
    }

    /// The default dataflow made small: seconds instead of minutes, but every node at work. Trained steps: `steps`.
    pub fn small(steps: u64) -> Self {
        Self::open("dataflow.yml").shortened(steps)
    }

    /// As [`Dataflow::small`], of the paper's objective: whole rows, for what cannot do with blocks.
    pub fn small_whole(steps: u64) -> Self {
        Self::open("data/experiments/tiny-diffusion.yml").shortened(steps)
    }

    /// Shortens any experiment.
    pub fn shortened(self, steps: u64) -> Self {
        let shared = [("STEPS", steps), ("MICRO_BATCH", 4), ("SEQUENCE_LENGTH", 160)];
        let trainer = [("WARMUP_STEPS", 2), ("ANNEAL_STEPS", steps / 2 + 1), ("CHECKPOINT_EVERY", steps / 2 + 1)];
        let evaluator = [("EVAL_DOCUMENTS", 8), ("EVAL_DRAWS", 1), ("EVAL_GAPS", 8)];
        let sampler = [("SAMPLES", 2), ("SAMPLES_FINAL", 4), ("DIFFUSION_STEPS", 8), ("INFILL_SAMPLES", 1)];
        let all = [("", &shared[..]), ("trainer", &trainer), ("evaluator", &evaluator), ("sampler", &sampler)];
        let keys = all.iter().flat_map(|(node, keys)| keys.iter().map(move |(key, value)| (*node, *key, *value)));
        let mut dataflow = self;
        for (node, key, value) in keys {
            if node.is_empty() || dataflow.has(node) {
                dataflow = dataflow.set(node, key, value);
            }
        }
        dataflow.set("tokenizer", "SHUFFLE_WINDOW", 64)
    }

    fn has(&self, id: &str) -> bool {
        self.value["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["id"] == id))
    }

    /// Sets a key in the `env:` of node `id`, or in the dataflow's own when `id` is empty.
    pub fn set(mut self, id: &str, key: &str, value: impl Into<Value>) -> Self {
        let place = if id.is_empty() { &mut self.value } else { self.node(id) };
        let env = place.as_object_mut().expect("a mapping").entry("env").or_insert_with(|| json!({}));
        env.as_object_mut().expect("env is a mapping").insert(key.to_owned(), value.into());
        self
    }

    /// Trains it in so many ranks.
    pub fn on_ranks(self, ranks: usize) -> Self {
        Self { ranks, ..self }
    }

    /// Changes the node `id` itself.
    pub fn node(&mut self, id: &str) -> &mut Value {
        let nodes = self.value["nodes"].as_array_mut().expect("nodes");
        nodes.iter_mut().find(|node| node["id"] == id).unwrap_or_else(|| panic!("no node {id}"))
    }

    /// Sets one input's options, such as `queue_size`.
    pub fn input(mut self, id: &str, input: &str, option: &str, value: impl Into<Value>) -> Self {
        self.node(id)["inputs"][input][option] = value.into();
        self
    }

    /// The test's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the run.
    pub fn run_folder(&self) -> PathBuf {
        let run = self.value["env"]["RUN"].as_str().unwrap_or("default");
        Path::new(self.value["env"]["RUNS"].as_str().expect("RUNS")).join(run)
    }

    /// Writes the file and gives its path. JSON is YAML.
    pub fn write(&self) -> PathBuf {
        let path = self.folder.path().join("dataflow.yml");
        std::fs::write(&path, format!("{:#}", self.value)).expect("the temporary folder takes a file");
        path
    }

    /// `difflow run`, waiting for its end.
    pub fn run(&self) -> Outcome {
        self.run_within(Duration::from_secs(300))
    }

    /// `difflow run`; a run that is not over after `limit` fails the test.
    pub fn run_within(&self, limit: Duration) -> Outcome {
        Outcome::of(self.command(), limit)
    }

    /// The command of [`Dataflow::run`], to be started by the test.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("difflow"));
        command.arg("run").arg(self.write()).current_dir(self.folder());
        if self.ranks > 1 {
            command.args(["--ranks", &self.ranks.to_string()]);
        }
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }
}

/// Makes the paths in the `env:` of `place` absolute, those in SOURCES too.
fn absolute(base: &Path, place: &mut Value) {
    let Some(env) = place.get_mut("env").and_then(Value::as_object_mut) else { return };
    let join = |path: &str| if path.starts_with('$') { path.to_owned() } else { base.join(path).display().to_string() };
    for key in PATHS {
        if let Some(path) = env.get(key).and_then(Value::as_str).filter(|path| !path.is_empty()) {
            env[key] = Value::from(join(path));
        }
    }
    if let Some(text) = env.get("SOURCES").and_then(Value::as_str) {
        let mut sources: Vec<Map<String, Value>> = serde_json::from_str(text).expect("SOURCES is JSON");
        for source in &mut sources {
            if let Some(path) = source.get("path").and_then(Value::as_str) {
                let path = join(path);
                source.insert("path".into(), path.into());
            }
        }
        env["SOURCES"] = Value::from(serde_json::to_string(&sources).expect("JSON"));
    }
}
