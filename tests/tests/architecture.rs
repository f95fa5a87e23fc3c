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
    assert!(ours("difflow-plugin-abi").is_empty(), "{:?}", ours("difflow-plugin-abi"));
    assert_eq!(ours("difflow-plugin-sdk"), ["difflow-plugin-abi"]);
    assert_eq!(ours("difflow-plugin-torch"), ["difflow-plugin-sdk"]);
    assert_eq!(ours("difflow-plugin-builtin"), ["difflow-diffusion", "difflow-plugin-sdk"]);
    let host = ["difflow-diffusion", "difflow-plugin-abi", "difflow-plugin-builtin", "difflow-schema"];
    assert_eq!(ours("difflow-plugin-host"), host);
    assert!(ours("difflow-hub").is_empty(), "{:?}", ours("difflow-hub"));
    assert!(ours("difflow-world").is_empty(), "{:?}", ours("difflow-world"));
}

/// A clock that jumps must not end a wait, a lock or a run: only labels for people may ask it.
#[test]
fn the_clock_on_the_wall_decides_nothing() {
    fn asking(folder: &Path, found: &mut BTreeSet<String>) {
        for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                asking(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                if ["SystemTime::now", "Utc::now"].iter().any(|clock| text.contains(clock)) {
                    found.insert(path.display().to_string());
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout");
    let mut found = BTreeSet::new();
    ["nodes", "plugins"].iter().for_each(|folder| asking(&root.join(folder), &mut found));
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

/// A key that a node takes from the shell, or from another node's `env:`, is one that a reader of the dataflow file cannot see.
#[test]
fn keys_come_from_a_nodes_own_part_of_the_dataflow_file() {
    fn using(folder: &Path, words: &[&str], found: &mut BTreeSet<String>) {
        for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                using(&path, words, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                if words.iter().any(|word| text.contains(word)) {
                    found.insert(path.display().to_string());
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout");
    let nodes =
        ["corpus", "tokenizer", "noiser", "trainer", "checkpointer", "sampler", "evaluator", "monitor", "node-kit"];
    let (mut shell, mut others) = (BTreeSet::new(), BTreeSet::new());
    for node in nodes {
        let folder = root.join("nodes").join(node).join("src");
        using(&folder, &["env::var", "env::vars"], &mut shell);
        using(&folder, &[".dataflow()"], &mut others);
    }
    let files =
        |names: &[&str]| names.iter().map(|name| root.join(name).display().to_string()).collect::<BTreeSet<_>>();
    // Whether dora started the program, and by which variable dora marks the processes of a dataflow.
    let dora = files(&["nodes/node-kit/src/entry.rs", "nodes/monitor/src/processes.rs"]);
    assert!(shell.is_subset(&dora), "{shell:?}");
    // A node's own entry, and the monitor's picture of the graph with the file for the report.
    let known = files(&["nodes/node-kit/src/node.rs", "nodes/monitor/src/run.rs"]);
    assert!(others.is_subset(&known), "{others:?}");
}
