//! The arrows of docs/ARCHITECTURE.md, read off `cargo metadata`, and its other invariants, read off the sources: what is drawn the wrong way
//! compiles, and is never undone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use difflow_tests::{allowed_skips, root};
use serde_json::Value;

type Graph = BTreeMap<String, BTreeSet<String>>;

/// What `cargo metadata` says of every workspace member.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// The dependencies of every workspace member, of kinds that `counts` takes: `dev` or none for tests and `build` or none for programs.
fn graph(counts: impl Fn(&Value) -> bool) -> Graph {
    let graph: Graph = packages()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
            let used = dependencies.filter(|d| counts(&d["kind"])).map(|d| d["name"].as_str().unwrap_or("").to_owned());
            (package["name"].as_str().unwrap_or("").to_owned(), used.collect())
        })
        .collect();
    assert!(graph.len() >= 14, "found only {:?}", graph.keys());
    graph
}

/// Normal and build dependencies of every workspace member.
fn dependencies() -> Graph {
    graph(|kind| kind != "dev")
}

/// The Rust files below a folder of the checkout.
fn sources(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "no Rust file in {folder}");
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A source file without its tests, which stand at its end or in a file of their own.
fn program_text(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name == "tests.rs" || name.ends_with("_tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
        return String::new();
    }
    let text = read(path);
    let tests = text
        .match_indices("#[cfg(test)]")
        .find(|(at, _)| text[*at..].lines().take(3).any(|line| line.ends_with("mod tests {")));
    text[..tests.map_or(text.len(), |(at, _)| at)].to_owned()
}

fn users_of(graph: &Graph, dependency: &str) -> Vec<String> {
    graph.iter().filter(|(_, used)| used.contains(dependency)).map(|(name, _)| name.clone()).collect()
}

const NODES: [&str; 9] =
    ["corpus", "tokenizer", "noiser", "trainer", "checkpointer", "sampler", "evaluator", "monitor", "server"];

#[test]
fn one_crate_names_dora_one_torch_and_three_datafusion() {
    let graph = dependencies();
    assert_eq!(users_of(&graph, "dora-node-api"), ["difflow-node-kit"]);
    assert_eq!(users_of(&graph, "dora-core"), ["difflow-node-kit"]);
    // The second is for torch models, which are plug-ins.
    assert_eq!(users_of(&graph, "tch"), ["difflow-model", "difflow-plugin-torch"]);
    assert_eq!(users_of(&graph, "difflow-plugin-torch"), ["plain-llama"]);
    // Files as tables, the queries of the corpus over them, and the command that asks the metrics of runs.
    assert_eq!(users_of(&graph, "datafusion"), ["difflow-cli", "difflow-corpus", "difflow-tables"]);
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
    assert!(ours("difflow-web").is_empty(), "{:?}", ours("difflow-web"));
    assert!(ours("difflow-tables").is_empty(), "{:?}", ours("difflow-tables"));
    assert_eq!(
        ours("difflow-eval"),
        ["diffusion", "inference", "schema", "tables", "text"].map(|name| format!("difflow-{name}"))
    );
    assert!(ours("difflow-plugin-abi").is_empty(), "{:?}", ours("difflow-plugin-abi"));
    assert_eq!(ours("difflow-plugin-sdk"), ["difflow-plugin-abi"]);
    assert_eq!(ours("difflow-plugin-torch"), ["difflow-plugin-sdk"]);
    assert_eq!(ours("difflow-plugin-builtin"), ["difflow-diffusion", "difflow-plugin-sdk"]);
    let host =
        ["diffusion", "plugin-abi", "plugin-builtin", "plugin-sdk", "schema"].map(|name| format!("difflow-{name}"));
    assert_eq!(ours("difflow-plugin-host"), host);
    assert!(ours("difflow-hub").is_empty(), "{:?}", ours("difflow-hub"));
    assert_eq!(ours("difflow-world"), ["difflow-text"]);
}

/// A clock that jumps must not end a wait, a lock or a run: only labels for people may ask it.
#[test]
fn the_clock_on_the_wall_decides_nothing() {
    let asks = |path: &PathBuf| ["SystemTime::now", "Utc::now"].iter().any(|clock| read(path).contains(clock));
    let found: BTreeSet<PathBuf> = ["nodes", "plugins"].into_iter().flat_map(sources).filter(asks).collect();
    // When a trainer or a monitor began, when a report, an event or an answer was written, and the names of a log file and of results. The
    // doctor compares the clocks of machines.
    let labels = [
        "nodes/cli/src/doctor/words.rs",
        "nodes/cli/src/eval/mod.rs",
        "nodes/cli/src/run.rs",
        "nodes/monitor/src/origin.rs",
        "nodes/monitor/src/report.rs",
        "nodes/monitor/src/tensorboard.rs",
        "nodes/server/src/frame.rs",
        "nodes/trainer/src/record.rs",
    ];
    assert_eq!(found, BTreeSet::from(labels.map(|path| root().join(path))));
}

/// A program that depended on the helpers of tests would carry them to people.
#[test]
fn only_tests_depend_on_the_helpers_of_tests() {
    assert_eq!(users_of(&dependencies(), "difflow-tests"), Vec::<String>::new());
    assert!(!users_of(&graph(|kind| kind == "dev"), "difflow-tests").is_empty());
}

/// The lints are of the whole workspace; a crate that does not take them is linted by nobody.
#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for package in packages() {
        let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
        assert!(read(&manifest).contains("[lints]\nworkspace = true"), "{}", manifest.display());
    }
}

/// A test that is skipped passes and shows nothing: every one says so through difflow_tests::skip, which lets none pass in continuous
/// integration but those that are listed with a reason.
#[test]
fn every_skip_goes_through_the_list() {
    let (mut all, mut bare) = (String::new(), Vec::new());
    for path in ["nodes", "plugins", "data", "tests"].into_iter().flat_map(sources) {
        let text = read(&path);
        let prints =
            |line: &&str| ["println!(", "eprintln!(", "print("].iter().any(|how| line.trim_start().starts_with(how));
        let said = text.lines().filter(prints).filter(|line| line.to_lowercase().contains("skipped"));
        bare.extend(said.map(|line| format!("{}: {line}", path.display())));
        // However a call is broken into lines.
        all.extend(text.split_whitespace());
    }
    assert!(bare.is_empty(), "not through difflow_tests::skip: {bare:#?}");
    for (need, reason) in allowed_skips() {
        assert!(reason.len() > 20, "tests/allowed-skips.txt has no reason for `{need}`");
        assert!(
            all.contains(&format!("skip(\"{need}\"")),
            "tests/allowed-skips.txt: no test skips for want of `{need}`"
        );
    }
}

/// What everybody shares is in dataflow.yml and its modules; an experiment says what differs, and why.
#[test]
fn an_experiment_is_at_most_25_lines() {
    let mut seen = 0;
    for path in
        fs::read_dir(root().join("data/experiments")).expect("a folder").map(|entry| entry.expect("an entry").path())
    {
        if path.extension().is_some_and(|ending| ending == "yml") {
            seen += 1;
            let lines = read(&path).lines().count();
            assert!(lines <= 25, "{} has {lines} lines", path.display());
        }
    }
    assert!(seen > 3, "only {seen} experiments");
}

/// Decoding and scoring are in one library. A second copy in a program drifts from it: it would encode a gap, weigh a loss or see to the
/// right in its own way.
#[test]
fn no_program_decodes_or_scores_by_itself() {
    let calls = ["model.decode(", "model.generate(", ".infill(", ".nelbo_sums(", ".ar_sums(", ".perplexity("];
    let mut found = Vec::new();
    for path in NODES.into_iter().chain(["cli"]).flat_map(|node| sources(&format!("nodes/{node}/src"))) {
        let text = program_text(&path);
        found
            .extend(calls.iter().filter(|call| text.contains(*call)).map(|call| format!("{}: {call}", path.display())));
    }
    assert!(found.is_empty(), "use difflow_inference: {found:#?}");
    let graph = dependencies();
    for program in ["difflow-sampler", "difflow-evaluator", "difflow-server"] {
        let used = &graph[program];
        assert!(used.contains("difflow-inference") && !used.contains("difflow-model"), "{program}: {used:?}");
    }
}

/// The little world is data: what a program knows of it, it would know of every corpus.
#[test]
fn only_its_checker_and_tests_name_the_world() {
    let name = "difflow-world";
    for path in ["nodes", "plugins"].into_iter().flat_map(sources) {
        let text = program_text(&path);
        assert!(!text.contains("difflow_world") && !text.contains(name), "{} names the world", path.display());
    }
    for (user, used) in graph(|_| true) {
        let plugin = user.contains("world");
        assert!(plugin || user == "difflow-tests" || !used.contains(name), "{user} depends on {name}");
    }
}

/// The table in nodes/schema/src/measures.rs says of every number what it is called, and people read it in many places: a second copy of the
/// words would be a second opinion.
#[test]
fn every_metric_is_declared_in_one_place() {
    let table = read(&root().join("nodes/schema/src/measures.rs"));
    let table = table.split_once("pub const MEASURES").expect("the table").1;
    let texts = |entry: &str| entry.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let (mut names, mut words) = (Vec::new(), Vec::new());
    for entry in table.split("Measure::").skip(1) {
        let texts = texts(entry);
        names.push(texts[0].clone());
        // Short ones are words that anybody may use.
        words.extend(texts[1..].iter().filter(|text| text.len() > 24 && text.contains(' ')).cloned());
    }
    assert!(names.len() > 20 && words.len() > 20, "{names:?} {words:?}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a name twice: {names:?}");
    let mut found = Vec::new();
    for path in sources("nodes").into_iter().filter(|path| !path.ends_with("measures.rs")) {
        let text = program_text(&path);
        found.extend(
            words.iter().filter(|words| text.contains(*words)).map(|words| format!("{}: {words}", path.display())),
        );
    }
    assert!(found.is_empty(), "take it from difflow_schema::measures: {found:#?}");
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
    let nodes = NODES.into_iter().chain(["node-kit"]);
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
