//! `difflow validate` on dataflow files that are broken by hand: each is refused at the right place, for the right reason, with exit
//! code 78. A case is a list of replacements in tests/dataflows/good.yml; `§` marks where the finding must point.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

const DIFFLOW: &str = env!("CARGO_BIN_EXE_difflow");
const GOOD: &str = include_str!("dataflows/good.yml");

type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// (what is broken, the kind that must be found, replacements)
const CASES: &[Case] = &[
    // YAML itself
    ("a tab", "yaml-syntax", &[("  STEPS: 1800\n", "§\tSTEPS: 1800\n")]),
    (
        "a list that is not closed",
        "yaml-syntax",
        &[("outputs: [documents]\n    env:", "outputs: [documents\n    env§:")],
    ),
    (
        "a text that is not closed",
        "yaml-syntax",
        &[("HELDOUT: data/tiny/heldout.parquet", "HELDOUT: §'data/tiny/heldout.parquet")],
    ),
    ("an unknown alias", "yaml-syntax", &[("STEPS: 1800", "STEPS: §*steps")]),
    ("a second document", "yaml-syntax", &[("nodes:\n", "§---\nnodes:\n")]),
    ("a key without a colon", "yaml-syntax", &[("  RUN: good\n  SEED: 1", "  RUN good\n  SEED§: 1")]),
    ("a list as a key", "yaml-syntax", &[("  SEED: 1", "  §[SEED]: 1")]),
    ("a key twice in env", "duplicate-key", &[("  SEED: 1", "  SEED: 1\n  §SEED: 2")]),
    ("env twice", "duplicate-key", &[("nodes:\n", "§env: {}\nnodes:\n")]),
    // The shape of a dataflow
    ("an empty file", "yaml-syntax", &[(GOOD, "§")]),
    ("a list instead of a mapping", "wrong-type", &[(GOOD, "§- id: corpus\n")]),
    ("nodes as a mapping", "wrong-type", &[(GOOD, "nodes:\n  §corpus: { path: bin/difflow-corpus }\n")]),
    ("no nodes", "missing-key", &[(GOOD, "§env: { RUN: x }\n")]),
    ("an empty list of nodes", "missing-key", &[(GOOD, "§nodes: []\n")]),
    ("a node without an id", "missing-key", &[("- id: corpus\n    path", "- §path")]),
    ("a node without a program", "missing-key", &[("- id: corpus\n    path: bin/difflow-corpus", "- §id: corpus")]),
    ("a node that is a text", "wrong-type", &[("  - id: corpus\n", "  - §lost\n  - id: corpus\n")]),
    ("a misspelt key of the dataflow", "unknown-key", &[("exit_when_nodes_finish", "§exit_when_node_finish")]),
    (
        "a misspelt key of a node",
        "unknown-key",
        &[("finish_grace_secs: 600\n    inputs:\n      noised", "§finish_grace_sec: 600\n    inputs:\n      noised")],
    ),
    (
        "a misspelt key of an input",
        "unknown-key",
        &[("documents: { source: corpus/documents, queue_size", "documents: { source: corpus/documents, §queue_sizes")],
    ),
    ("env as a list", "wrong-type", &[("    env:\n      PACKING: documents", "    env:\n      §- PACKING")]),
    ("a mapping as a value", "wrong-type", &[("STEPS: 1800", "STEPS: §{ many: 1 }")]),
    ("a key without a value", "wrong-type", &[("LEARNING_RATE: 3e-3", "LEARNING_RATE§:")]),
    // Keys and values
    ("a word for a whole number", "wrong-type", &[("STEPS: 1800", "STEPS: §many")]),
    ("a fraction for a whole number", "wrong-type", &[("STEPS: 1800", "STEPS: §1.5")]),
    ("a word for a number", "wrong-type", &[("LEARNING_RATE: 3e-3", "LEARNING_RATE: §fast")]),
    ("yes for true", "wrong-type", &[("ANNEAL_STEPS: 300", "ANNEAL_STEPS: 300\n      SHIFT: §yes")]),
    ("a choice that is none", "wrong-type", &[("DIFFUSION_STEPS: 128", "DECODER: §randm")]),
    ("another choice that is none", "wrong-type", &[("PACKING: documents", "PACKING: §document")]),
    ("no steps", "out-of-range", &[("STEPS: 1800", "STEPS: §0")]),
    ("no learning rate", "out-of-range", &[("LEARNING_RATE: 3e-3", "LEARNING_RATE: §0")]),
    ("a huge batch", "out-of-range", &[("MICRO_BATCH: 16", "MICRO_BATCH: §100000")]),
    ("one checkpoint to keep", "out-of-range", &[("KEEP_LAST: 5", "KEEP_LAST: §1")]),
    ("a probability above 1", "out-of-range", &[("DIFFUSION_STEPS: 128", "TOP_P: §1.5")]),
    ("no threads", "out-of-range", &[("EVAL_DRAWS: 2", "THREADS: §0")]),
    (
        "block diffusion of rows that are not cut",
        "contradiction",
        &[
            ("NOISE_SCHEDULE: linear", "NOISE_SCHEDULE: linear\n      BLOCK_SIZE: §''"),
            ("ANNEAL_STEPS: 300", "ANNEAL_STEPS: 300\n      OBJECTIVE: block"),
        ],
    ),
    (
        "rows that are cut for full diffusion",
        "contradiction",
        &[
            ("NOISE_SCHEDULE: linear", "NOISE_SCHEDULE: linear\n      BLOCK_SIZE: 4"),
            ("ANNEAL_STEPS: 300", "ANNEAL_STEPS: 300\n      OBJECTIVE: §diffusion"),
        ],
    ),
    ("a misspelt key", "unknown-key", &[("LEARNING_RATE: 3e-3", "§LEARNIN_RATE: 3e-3")]),
    ("a misspelt shared key", "unknown-key", &[("SEQUENCE_LENGTH: 192", "§SEQUENCE_LEN: 192")]),
    (
        "a key of another node",
        "unknown-key",
        &[("WARMUP_STEPS: 60", "WARMUP_STEPS: 60\n      §HELDOUT: data/tiny/heldout.parquet")],
    ),
    ("a run outside the folder of runs", "wrong-value", &[("RUN: good", "RUN: §../good")]),
    ("lengths that fall", "wrong-value", &[("DIFFUSION_STEPS: 128", "LENGTHS: §9..3")]),
    ("a warm-up longer than the run", "wrong-value", &[("WARMUP_STEPS: 60", "WARMUP_STEPS: §5000")]),
    ("a cache without blocks", "wrong-value", &[("DIFFUSION_STEPS: 128", "CACHE: §dual")]),
    (
        "sources that are no JSON",
        "wrong-value",
        &[("SOURCES: '[{\"path\": \"data/tiny/train.parquet\"}]'", "SOURCES: §data/tiny/train.parquet")],
    ),
    ("a source with an unknown key", "wrong-value", &[("SOURCES: '[{\"path\"", "SOURCES: §'[{\"pth\": 1, \"path\"")]),
    ("a source of no weight", "wrong-value", &[("SOURCES: '[{\"path\"", "SOURCES: §'[{\"weight\": 0, \"path\"")]),
    // Nodes and edges
    ("an id twice", "duplicate-id", &[("id: evaluator", "id: §sampler")]),
    ("a misspelt program", "unknown-program", &[("path: bin/difflow-trainer", "path: §bin/difflow-trainr")]),
    ("an unknown node", "unknown-node", &[("source: noiser/noised", "source: §noisr/noised")]),
    ("an output that is not declared", "unknown-output", &[("source: noiser/noised", "source: §noiser/noise")]),
    (
        "an output that the program does not have",
        "unknown-output",
        &[("outputs: [documents]", "outputs: [documents, §texts]")],
    ),
    ("an input without an output", "wrong-value", &[("source: noiser/noised", "source: §noiser")]),
    (
        "an input that is a list",
        "wrong-type",
        &[("noised: { source: noiser/noised, queue_size: 16 }", "noised: §[noiser/noised]")],
    ),
    ("an input that the program does not have", "unknown-input", &[("      noised: {", "      §noise: {")]),
    (
        "an input that is missing",
        "missing-key",
        &[
            ("id: trainer", "id: §trainer"),
            ("    inputs:\n      noised: { source: noiser/noised, queue_size: 16 }\n", ""),
        ],
    ),
    ("sequences where noise is wanted", "edge-type", &[("source: noiser/noised", "source: §tokenizer/sequences")]),
    ("a timer where data is wanted", "edge-type", &[("source: noiser/noised", "source: §dora/timer/millis/10")]),
    ("metrics where a timer is wanted", "edge-type", &[("tick: dora/timer/millis/1000", "tick: §trainer/metrics")]),
    (
        "demand from the wrong node",
        "contradiction",
        &[("demand: { source: trainer/demand", "demand: { source: §tokenizer/demand")],
    ),
    (
        "data for two",
        "contradiction",
        &[
            ("demand: { source: trainer/demand", "demand: { source: §trainer/demand"),
            (
                "- id: trainer",
                "- id: other\n    path: bin/difflow-trainer\n    finish_grace_secs: 600\n    inputs:\n      noised: { source: noiser/noised, queue_size: 16 }\n    outputs: [demand]\n\n  - id: trainer",
            ),
        ],
    ),
    (
        "a circle",
        "cycle",
        &[(
            GOOD,
            "nodes:\n  - { id: a, path: bin/other, inputs: { x: §b/y, tick: dora/timer/secs/1 }, outputs: [y] }\n  - { id: b, path: bin/other, inputs: { x: a/y }, outputs: [y] }\n",
        )],
    ),
    ("no timer", "no-timer", &[("id: monitor", "id: §monitor"), ("      tick: dora/timer/millis/1000\n", "")]),
    ("no monitor and no timer", "no-timer", &[(GOOD, "§nodes:\n  - { id: a, path: bin/other }\n")]),
    ("a queue of nothing", "wrong-type", &[("noiser/noised, queue_size: 16", "noiser/noised, queue_size: §0")]),
    // Rules across nodes
    (
        "a queue too small for the prefetch",
        "contradiction",
        &[
            ("WARMUP_STEPS: 60", "PREFETCH: 40"),
            ("noised: { source: noiser/noised", "noised: { source: §noiser/noised"),
        ],
    ),
    (
        "an edge that may lose what is sent once",
        "missing-key",
        &[("trainer/metrics, queue_size: 1000, queue_policy: backpressure", "§trainer/metrics, queue_size: 1000")],
    ),
    ("two runs", "contradiction", &[("KEEP_LAST: 5", "RUN: §other")]),
    ("two base models", "contradiction", &[("WARMUP_STEPS: 60", "BASE_MODEL: §data/tiny/architecture")]),
    (
        "documents held out that nobody scores",
        "contradiction",
        &[
            ("- id: corpus", "- id: §corpus"),
            ("      HELDOUT: data/tiny/heldout.parquet\n", ""),
            ("EVAL_DRAWS: 2", "HELDOUT: data/tiny/heldout.parquet"),
        ],
    ),
    ("a key that went away", "unknown-key", &[("NOISE_SCHEDULE: linear", "§ACCUMULATION: 2")]),
    ("another key that went away", "unknown-key", &[("WARMUP_STEPS: 60", "§TOKENIZER: data/tiny/tokenizer.json")]),
    ("two presets", "contradiction", &[("NOISE_SCHEDULE: linear", "PRESET: §parity")]),
    ("annealing that does not end", "contradiction", &[("ANNEAL_STEPS: 300", "ANNEAL_STEPS: §3000")]),
    ("checkpoints that never come", "contradiction", &[("CHECKPOINT_EVERY: 600", "CHECKPOINT_EVERY: §6000")]),
    ("checkpoints kept that never are", "contradiction", &[("KEEP_LAST: 5", "KEEP_EVERY: §700")]),
    (
        "no time to end",
        "missing-key",
        &[(
            "id: trainer\n    path: bin/difflow-trainer\n    finish_grace_secs: 600\n",
            "id: §trainer\n    path: bin/difflow-trainer\n",
        )],
    ),
    ("an end that never comes", "missing-key", &[("exit_when_nodes_finish: true\n", ""), ("nodes:\n", "§nodes:\n")]),
    (
        "a text that dora rewrites",
        "wrong-value",
        &[("HELDOUT: data/tiny/heldout.parquet", "HELDOUT: data/tiny/heldout.parquet\n      TEXT_COLUMN: §1.10")],
    ),
    (
        "the same in quotes, which change nothing",
        "wrong-value",
        &[("HELDOUT: data/tiny/heldout.parquet", "HELDOUT: data/tiny/heldout.parquet\n      TEXT_COLUMN: §'1.10'")],
    ),
    // Files, models, variables
    (
        "no tokenizer",
        "missing-file",
        &[("TOKENIZER: data/tiny/tokenizer.json", "TOKENIZER: §data/tiny/tokeniser.json")],
    ),
    ("no model", "missing-file", &[("BASE_MODEL: data/tiny/model", "BASE_MODEL: §data/tiny/modell")]),
    ("no program", "missing-file", &[("path: bin/difflow-corpus", "path: §build/difflow-corpus")]),
    ("no held-out documents", "missing-file", &[("HELDOUT: data/tiny/heldout.parquet", "HELDOUT: §heldout.parquet")]),
    (
        "no documents",
        "missing-file",
        &[("'[{\"path\": \"data/tiny/train.parquet\"}]'", "§'[{\"path\": \"data/tiny/train-*.parquet\"}]'")],
    ),
    (
        "a tokenizer that is none",
        "wrong-value",
        &[("TOKENIZER: data/tiny/tokenizer.json", "TOKENIZER: §data/tiny/infill.jsonl")],
    ),
    ("a token that is none", "wrong-value", &[("  SEED: 1", "  SEED: 1\n  BOS_TOKEN: §<start>")]),
    ("more tokens than the model knows", "contradiction", &[("SEQUENCE_LENGTH: 192", "SEQUENCE_LENGTH: §100000")]),
    ("a mask token outside the vocabulary", "contradiction", &[("WARMUP_STEPS: 60", "MASK_TOKEN: §100000")]),
    (
        "a variable that is not set",
        "missing-variable",
        &[("BASE_MODEL: data/tiny/model", "BASE_MODEL: §$DIFFLOW_NOT_SET/model")],
    ),
    // Plug-ins
    ("a misspelt schedule", "bad-plugin", &[("NOISE_SCHEDULE: linear", "NOISE_SCHEDULE: §linaer")]),
    ("a misspelt annealing", "bad-plugin", &[("ANNEALING_SCHEDULE: linear", "ANNEALING_SCHEDULE: §builtin:lineal")]),
    ("a plug-in that is not there", "bad-plugin", &[("NOISE_SCHEDULE: linear", "NOISE_SCHEDULE: §bin/none.so")]),
    (
        "a plug-in that is no library",
        "bad-plugin",
        &[("NOISE_SCHEDULE: linear", "NOISE_SCHEDULE: §data/tiny/infill.jsonl#x")],
    ),
    (
        "a wrong configuration of a schedule",
        "wrong-value",
        &[("NOISE_SCHEDULE: linear", "NOISE_SCHEDULE: polynomial\n      NOISE_SCHEDULE_CONFIG: §'{\"power\": -1}'")],
    ),
    ("transforms that are no list", "wrong-value", &[("NOISE_SCHEDULE: linear", "TRANSFORMS: §span-mask")]),
    // dora's own rules
    (
        "a policy that dora does not have",
        "dora",
        &[("path: bin/difflow-corpus", "path: bin/difflow-corpus\n    restart_policy: perhaps")],
    ),
    (
        "a time that is none",
        "dora",
        &[(
            "    finish_grace_secs: 600\n    inputs:\n      noised",
            "    finish_grace_secs: 600\n    startup_timeout: -1\n    inputs:\n      noised",
        )],
    ),
    (
        "a type that is none",
        "edge-type",
        &[("outputs: [documents]", "outputs: [documents]\n    output_types: { documents: difflow/v1/Document }")],
    ),
    (
        "a type that differs",
        "edge-type",
        &[
            ("outputs: [documents]", "outputs: [documents]\n    output_types: { documents: difflow/v1/Metrics }"),
            ("documents: { source: corpus/documents", "documents: { source: §corpus/documents"),
        ],
    ),
];

/// A folder with the data of the repository and programs that are only there.
fn folder() -> tempfile::TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(root.join("data"), folder.path().join("data")).unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    for name in ["corpus", "tokenizer", "noiser", "trainer", "checkpointer", "sampler", "evaluator", "monitor"] {
        std::fs::write(folder.path().join("bin").join(format!("difflow-{name}")), "").unwrap();
    }
    std::fs::write(folder.path().join("bin/other"), "").unwrap();
    folder
}

/// The file of a case and the place that `§` marks.
fn broken(edits: &[(&str, &str)]) -> (String, Option<(u64, u64)>) {
    let mut text = GOOD.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "`{from}` is not in the file");
        text = text.replacen(from, to, 1);
    }
    let place = text.find('§').map(|at| {
        let before = &text[..at];
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        (line, column)
    });
    (text.replace('§', ""), place)
}

fn validate(file: &Path, options: &[&str]) -> (i32, String) {
    let mut command = Command::new(DIFFLOW);
    let output = command.arg("validate").arg(file).args(options).env_remove("DIFFLOW_NOT_SET").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(!problem.contains("panicked"), "{problem}");
    (output.status.code().unwrap_or(-1), text)
}

fn findings(text: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    list.as_array().unwrap().clone()
}

/// What is wrong with the answer to a case, if anything.
fn judge(folder: &Path, number: usize, (what, kind, edits): &Case) -> Option<String> {
    let (text, place) = broken(edits);
    let file: PathBuf = folder.join(format!("case{number}.yml"));
    std::fs::write(&file, text).unwrap();
    let (code, text) = validate(&file, &["--json", "--deny-warnings"]);
    let found = findings(&text);
    let fits = |finding: &Value| {
        let at = (finding["line"].as_u64().unwrap_or(0), finding["column"].as_u64().unwrap_or(0));
        let told = ["file", "found", "allowed", "what_to_do", "subject"];
        let complete = told.iter().all(|key| finding[key].as_str().is_some_and(|text| !text.is_empty()));
        finding["kind"] == *kind && place.is_none_or(|place| place == at) && complete
    };
    let right = code == 78 && found.iter().any(fits);
    (!right).then(|| format!("{what}: wanted {kind} at {place:?} and exit code 78, found code {code} and {found:#?}"))
}

#[test]
fn every_broken_file_is_refused_at_the_right_place_for_the_right_reason() {
    assert!(CASES.len() >= 60);
    let folder = folder();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = CASES.get(number) else { return wrong };
            wrong.extend(judge(folder.path(), number, case));
        }
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), CASES.len(), wrong.join("\n\n"));
}

#[test]
fn the_file_that_the_cases_break_has_nothing_wrong() {
    let folder = folder();
    let file = folder.path().join("good.yml");
    std::fs::write(&file, GOOD).unwrap();
    let (code, text) = validate(&file, &["--deny-warnings"]);
    assert!(code == 0 && text.ends_with("nothing wrong\n"), "{code}: {text}");
}

/// A node of one's own between two of difflow's gets the data, and the demand passes it by; refused, no such dataflow could run.
#[test]
fn a_node_of_ones_own_may_stand_between_two_of_difflows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (code, text) = validate(&root.join("docs/examples/python-nodes.yml"), &["--no-environment", "--deny-warnings"]);
    assert!(code == 0 && text.ends_with("nothing wrong\n"), "{code}: {text}");
}

/// A researcher who mends one key per try would give up.
#[test]
fn everything_is_said_at_once() {
    let folder = folder();
    let edits = [
        ("STEPS: 1800", "STEPS: many"),
        ("LEARNING_RATE", "LEARNIN_RATE"),
        ("source: noiser/noised", "source: noisr/noised"),
        ("data/tiny/heldout.parquet", "nowhere.parquet"),
        ("id: evaluator", "id: sampler"),
        ("NOISE_SCHEDULE: linear", "NOISE_SCHEDULE: linaer"),
    ];
    let (text, _) = broken(&edits);
    let file = folder.path().join("many.yml");
    std::fs::write(&file, text).unwrap();
    let (code, text) = validate(&file, &["--json"]);
    let found = findings(&text);
    for kind in ["wrong-type", "unknown-key", "unknown-node", "missing-file", "duplicate-id", "bad-plugin"] {
        assert!(found.iter().any(|finding| finding["kind"] == kind), "no {kind} in {found:#?}");
    }
    assert_eq!(code, 78);
    let lines: Vec<u64> = found.iter().map(|finding| finding["line"].as_u64().unwrap()).collect();
    assert!(lines.is_sorted(), "{lines:?}");
}

#[test]
fn warnings_count_only_when_asked_and_files_only_with_an_environment() {
    let folder = folder();
    let (text, _) =
        broken(&[("ANNEAL_STEPS: 300", "ANNEAL_STEPS: 3000"), ("data/tiny/heldout.parquet", "nowhere.parquet")]);
    let file = folder.path().join("warn.yml");
    std::fs::write(&file, text).unwrap();
    assert_eq!(validate(&file, &[]).0, 78);
    assert_eq!(validate(&file, &["--no-environment"]).0, 0);
    assert_eq!(validate(&file, &["--no-environment", "--deny-warnings"]).0, 78);
    assert_eq!(validate(&folder.path().join("none.yml"), &[]).0, 2);
}

/// A file in a folder below finds the project's tasks by their names, and of a name that is none it is said where it was looked for.
#[test]
fn tasks_are_looked_for_from_the_folder_of_the_file_upwards() {
    let folder = folder();
    let below = folder.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let about_tasks = |tasks: &str| -> Vec<Value> {
        let (text, _) = broken(&[("  SEED: 1", &format!("  SEED: 1\n  TASKS: '{tasks}'"))]);
        let file = below.join("below.yml");
        std::fs::write(&file, text).unwrap();
        let found = findings(&validate(&file, &["--json"]).1);
        found.into_iter().filter(|finding| finding["subject"].as_str().unwrap().contains("TASKS")).collect()
    };
    assert_eq!(about_tasks("tiny-endings, tiny-gaps"), [] as [Value; 0]);
    let found = about_tasks("tiny-endings,tiny-ending");
    let [finding] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((&finding["kind"], &finding["found"]), (&"wrong-value".into(), &"`tiny-ending`".into()));
    let allowed = finding["allowed"].as_str().unwrap();
    let place = folder.path().join("data/tasks");
    assert!(allowed.contains(place.to_str().unwrap()) && allowed.contains("tiny-endings"), "{allowed}");
}
