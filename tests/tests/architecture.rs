//! The arrows of docs/ARCHITECTURE.md, read off `cargo metadata`: an arrow drawn the wrong way compiles, and is never undone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Normal and build dependencies of every workspace member.
fn dependencies() -> Graph {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let graph: Graph = packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
            let used = dependencies.filter(|d| d["kind"] != "dev").map(|d| d["name"].as_str().unwrap_or("").to_owned());
            (package["name"].as_str().unwrap_or("").to_owned(), used.collect())
        })
        .collect();
    assert!(graph.len() >= 14, "found only {:?}", graph.keys());
    graph
}

fn users_of(graph: &Graph, dependency: &str) -> Vec<String> {
    graph.iter().filter(|(_, used)| used.contains(dependency)).map(|(name, _)| name.clone()).collect()
}

const NODES: [&str; 8] =
    ["corpus", "tokenizer", "noiser", "trainer", "checkpointer", "sampler", "evaluator", "monitor"];

#[test]
fn one_crate_names_dora_one_torch_and_one_datafusion() {
    let graph = dependencies();
    assert_eq!(users_of(&graph, "dora-node-api"), ["difflow-node-kit"]);
    assert_eq!(users_of(&graph, "dora-core"), ["difflow-node-kit"]);
    // The second is for torch models, which are plug-ins.
    assert_eq!(users_of(&graph, "tch"), ["difflow-model", "difflow-plugin-torch"]);
    assert_eq!(users_of(&graph, "difflow-plugin-torch"), ["plain-llama"]);
    // The corpus, and the command that asks the metrics of runs.
    assert_eq!(users_of(&graph, "datafusion"), ["difflow-cli", "difflow-corpus"]);
}

/// But for the command, which judges dataflow files by the nodes' own keys and rules.
#[test]
fn no_crate_depends_on_a_node() {
    let graph = dependencies();
    for node in NODES {
        assert!(graph.contains_key(&format!("difflow-{node}")), "no crate difflow-{node}");
        assert_eq!(users_of(&graph, &format!("difflow-{node}")), ["difflow-cli"], "a crate depends on the node {node}");
    }
}

#[test]
fn the_libraries_point_one_way() {
    let graph = dependencies();
    let ours = |name: &str| -> Vec<String> {
        graph[name].iter().filter(|dependency| dependency.starts_with("difflow-")).cloned().collect()
    };
    assert!(ours("difflow-schema").is_empty(), "{:?}", ours("difflow-schema"));
    assert!(ours("difflow-diffusion").is_empty(), "{:?}", ours("difflow-diffusion"));
    assert_eq!(ours("difflow-node-kit"), ["difflow-schema"]);
    assert_eq!(ours("difflow-model"), ["difflow-diffusion", "difflow-plugin-host"]);
    assert_eq!(ours("difflow-text"), ["difflow-diffusion"]);
    let inference =
        ["diffusion", "hub", "model", "plugin-host", "schema", "text"].map(|name| format!("difflow-{name}"));
    assert_eq!(ours("difflow-inference"), inference);
    assert!(ours("difflow-plugin-abi").is_empty(), "{:?}", ours("difflow-plugin-abi"));
    assert_eq!(ours("difflow-plugin-sdk"), ["difflow-plugin-abi"]);
    assert_eq!(ours("difflow-plugin-torch"), ["difflow-plugin-sdk"]);
    assert_eq!(ours("difflow-plugin-builtin"), ["difflow-diffusion", "difflow-plugin-sdk"]);
    let host = ["difflow-diffusion", "difflow-plugin-abi", "difflow-plugin-builtin", "difflow-schema"];
    assert_eq!(ours("difflow-plugin-host"), host);
    assert!(ours("difflow-hub").is_empty(), "{:?}", ours("difflow-hub"));
    assert_eq!(ours("difflow-world"), ["difflow-text"]);
}

/// The little world of data/tiny is one corpus among others: its checker is a command that a dataflow names.
#[test]
fn nothing_but_the_world_itself_names_the_world() {
    assert!(users_of(&dependencies(), "difflow-world").is_empty());
    let all = sources(&["nodes", "plugins"]);
    let naming = all.iter().filter(|(_, text)| text.contains("difflow_world") || text.contains("difflow-world"));
    assert_eq!(naming.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// Evaluation and decoding were written twice, and the copies drifted. What asks a model is `difflow_inference`; programs ask it.
#[test]
fn no_program_holds_decoding_or_scoring() {
    let graph = dependencies();
    for program in ["difflow-sampler", "difflow-evaluator"] {
        let used = &graph[program];
        assert!(used.contains("difflow-inference") && !used.contains("difflow-model"), "{program}: {used:?}");
        assert!(!used.contains("difflow-plugin-host") && !used.contains("difflow-hub"), "{program}: {used:?}");
    }
    assert_eq!(users_of(&graph, "difflow-inference"), ["difflow-cli", "difflow-evaluator", "difflow-sampler"]);
    let inner =
        ["nelbo_sums", "ar_sums", "DiffusionDecoding", "Generation", ".infill(", ".generate(", "masked_positions("];
    let programs = sources(&["nodes/cli/src", "nodes/sampler/src", "nodes/evaluator/src", "nodes/monitor/src"]);
    for (path, text) in &programs {
        let found: Vec<&&str> = inner.iter().filter(|name| text.contains(**name)).collect();
        assert!(found.is_empty(), "{path} has {found:?}");
    }
    assert!(programs.iter().any(|(path, text)| path.ends_with("score.rs") && text.contains("difflow_inference")));
}

/// The sources below folders of the checkout, by path.
fn sources(folders: &[&str]) -> BTreeMap<String, String> {
    fn collect(folder: &Path, found: &mut BTreeMap<String, String>) {
        for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.insert(path.display().to_string(), std::fs::read_to_string(&path).expect("a source file"));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout");
    let mut found = BTreeMap::new();
    folders.iter().for_each(|folder| collect(&root.join(folder), &mut found));
    found
}

/// A clock that jumps must not end a wait, a lock or a run: only labels for people may ask it.
#[test]
fn the_clock_on_the_wall_decides_nothing() {
    let asks = |text: &str| ["SystemTime::now", "Utc::now"].iter().any(|clock| text.contains(clock));
    let found = sources(&["nodes", "plugins"]).into_iter().filter(|(_, text)| asks(text)).map(|(path, _)| path);
    let found: BTreeSet<String> = found.collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout");
    // When a trainer or a monitor began, when a report or an event was written, and the name of a log file.
    let labels = [
        "nodes/cli/src/run.rs",
        "nodes/monitor/src/origin.rs",
        "nodes/monitor/src/report.rs",
        "nodes/monitor/src/tensorboard.rs",
        "nodes/trainer/src/record.rs",
    ];
    assert_eq!(found, BTreeSet::from(labels.map(|path| root.join(path).display().to_string())));
}
