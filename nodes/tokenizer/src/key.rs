//! The key of a token store: what its content depends on. The same key means the same tokens.

use std::fs;
use std::path::Path;

use difflow_plugin_host::Transforms;
use difflow_schema::run::{bytes_sha256, file_sha256};
use eyre::{Context, Result};
use serde_json::{Map, Value, json};
use walkdir::WalkDir;

use crate::config::Config;
use crate::corpus_files::{Found, look};

/// Keys of the corpus that may stand in the dataflow's shared `env:` instead of the node's own.
const CORPUS_KEYS: [&str; 6] = ["SOURCES", "TEXT_COLUMN", "SQL", "TEXT_SEPARATOR", "SEED", "TRANSFORMS"];
/// A key of the corpus that does not change the documents.
const WITHOUT_EFFECT: &str = "DOCUMENTS_PER_BATCH";

/// The key: sha256 of the tokenizer's file, this node's keys that shape rows, and the configuration, files and plug-ins of the node
/// that sends the documents. `dataflow` is the parsed dataflow file, `id` this node's id in it, `lookup` the process environment.
///
/// # Errors
/// When the tokenizer's file cannot be read.
pub fn store_key(
    config: &Config,
    dataflow: &Value,
    id: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<String> {
    let (tokenizer, _) = file_sha256(Path::new(&config.tokenizer)).with_context(|| config.tokenizer.clone())?;
    let keys = corpus_keys(dataflow, id, lookup);
    let listed = |file: Found| json!([file.path.display().to_string(), file.bytes, file.modified.to_string()]);
    let files: Vec<Value> = files(&keys).into_iter().map(listed).collect();
    let content = json!({
        "layout": 1,
        "tokenizer": tokenizer,
        "bos": config.bos_token,
        "eos": config.eos_token,
        "length": config.sequence_length,
        "packing": config.packing,
        "sender": sender(dataflow, id).and_then(|node| node.get("path")),
        "files": files,
        "transforms": transforms(&keys),
        "keys": keys,
    });
    Ok(bytes_sha256(content.to_string().as_bytes()))
}

/// The files of the corpus of the node that sends the documents, with the same arguments as [`store_key`].
pub fn files_of_corpus(dataflow: &Value, id: &str, lookup: impl Fn(&str) -> Option<String>) -> Vec<Found> {
    files(&corpus_keys(dataflow, id, lookup))
}

/// The keys of the node that sends the documents.
fn corpus_keys(dataflow: &Value, id: &str, lookup: impl Fn(&str) -> Option<String>) -> Map<String, Value> {
    let sender = sender(dataflow, id);
    let mut keys = sender.and_then(|node| node.get("env")?.as_object().cloned()).unwrap_or_default();
    keys.remove(WITHOUT_EFFECT);
    for key in CORPUS_KEYS {
        if let (false, Some(value)) = (keys.contains_key(key), lookup(key)) {
            keys.insert(key.to_owned(), Value::from(value));
        }
    }
    // serde_json keeps the order of the file, which has no meaning.
    keys.sort_keys();
    keys
}

/// The node whose output is connected to this node's input `documents`.
fn sender<'a>(dataflow: &'a Value, id: &str) -> Option<&'a Value> {
    let nodes = dataflow.get("nodes")?.as_array()?;
    let named = |id: &str| nodes.iter().find(|node| node.get("id").and_then(Value::as_str) == Some(id));
    let input = named(id)?.get("inputs")?.get("documents")?;
    let source = input.as_str().or_else(|| input.get("source")?.as_str())?;
    named(source.split_once('/')?.0)
}

/// Id, version and content of every transform that the documents went through: another library under the same name makes others.
fn transforms(keys: &Map<String, Value>) -> Vec<Value> {
    let text = keys.get("TRANSFORMS").and_then(Value::as_str).unwrap_or_default();
    // One that cannot be found is reported by the corpus, which needs it.
    let records = Transforms::records(text).unwrap_or_default();
    records.into_iter().map(|record| json!([record.id, record.version, record.sha256, record.config])).collect()
}

/// Every file that SOURCES can mean; of a pattern, all files below its fixed part.
fn files(keys: &Map<String, Value>) -> Vec<Found> {
    let sources = keys.get("SOURCES").and_then(Value::as_str).unwrap_or_default();
    let sources: Vec<Value> = serde_json::from_str(sources).unwrap_or_default();
    let mut found = Vec::new();
    for path in sources.iter().filter_map(|source| source.get("path")?.as_str()) {
        let whole = Path::new(path).exists();
        let fixed = path.split(['*', '?', '[']).next().filter(|_| !whole).unwrap_or(path);
        let fixed = if fixed == path { fixed } else { fixed.rsplit_once('/').map_or(".", |(folder, _)| folder) };
        // What cannot be read here is reported by the corpus, which has to read it.
        let entries = WalkDir::new(fixed).follow_links(true).sort_by_file_name().into_iter().filter_map(Result::ok);
        found.extend(entries.filter(|entry| !entry.file_type().is_dir()).filter_map(|entry| look(entry.path())));
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::packing::Packing;
    use crate::words::tests::world;

    /// What changes the tokens changes the key; what does not, does not. A store of another corpus served in silence would be the
    /// worst of errors.
    #[test]
    fn the_key_changes_with_everything_that_changes_the_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("part.jsonl");
        fs::write(&data, "one").unwrap();
        let config = world(dir.path(), 29);
        let env = json!({"SOURCES": format!(r#"[{{"path":"{}/*.jsonl"}}]"#, dir.path().display())});
        let dataflow = |env: Value| {
            let tokenizer =
                json!({"id": "words", "inputs": {"documents": {"source": "texts/documents", "queue_size": 4}}});
            json!({"nodes": [{"id": "other", "env": {"A": 1}}, {"id": "texts", "path": "bin/corpus", "env": env}, tokenizer]})
        };
        let key = |config: &Config, env: &Value, shared: &'static str| {
            store_key(config, &dataflow(env.clone()), "words", |key| (key == shared).then(|| "7".to_owned())).unwrap()
        };
        let with = |name: &str, value: Value| {
            let mut env = env.clone();
            env[name] = value;
            env
        };
        let base = key(&config, &env, "");
        assert_eq!(base, key(&Config { seed: 5, micro_batch: 3, ..config.clone() }, &env, "STEPS"));
        assert_eq!(base, key(&config, &with("DOCUMENTS_PER_BATCH", 9.into()), ""));
        let mut keys = vec![
            base.clone(),
            key(&Config { sequence_length: 8, ..config.clone() }, &env, ""),
            key(&Config { packing: Packing::Stream, ..config.clone() }, &env, ""),
            key(&Config { bos_token: "<eos>".into(), ..config.clone() }, &env, ""),
            key(&config, &with("SQL", "SELECT".into()), ""),
            key(&config, &env, "SEED"),
        ];
        fs::write(&data, "one and more").unwrap();
        keys.push(key(&config, &env, ""));
        fs::write(dir.path().join("second.jsonl"), "two").unwrap();
        keys.push(key(&config, &env, ""));
        fs::write(&config.tokenizer, "{}").unwrap();
        keys.push(key(&config, &env, ""));
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    /// nodes/cli/tests/plugins/bad.c as a transform.
    fn transform(path: &Path, more: &[&str]) {
        // A new file, as a compiler should make it: the old one is mapped.
        fs::remove_file(path).ok();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let output = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-std=gnu11", "-DKIND=TRANSFORM", "-DRELEASES=1"])
            .args(more)
            .arg("-I")
            .args([&root.join("plugins/include"), Path::new("-o"), path, &root.join("nodes/cli/tests/plugins/bad.c")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A transform that was compiled again must not be served the tokens of the old one.
    #[test]
    fn the_key_changes_with_the_content_of_a_transform() {
        let dir = tempfile::tempdir().unwrap();
        let config = world(dir.path(), 29);
        let key = |path: &Path| {
            let env = json!({"SOURCES": "[]", "TRANSFORMS": format!("[{:?}]", path.display().to_string())});
            let tokenizer = json!({"id": "words", "inputs": {"documents": "texts/documents"}});
            let dataflow = json!({"nodes": [{"id": "texts", "path": "bin/corpus", "env": env}, tokenizer]});
            store_key(&config, &dataflow, "words", |_| None).unwrap()
        };
        let library = dir.path().join("transform.so");
        transform(&library, &[]);
        let first = key(&library);
        assert_eq!(first, key(&library));
        transform(&library, &["-DID=\"org.example.other\""]);
        let renamed = key(&library);
        transform(&library, &["-DCHANGES_SCHEMA"]);
        let changed = key(&library);
        transform(&library, &[]);
        assert_eq!(first, key(&library), "the same content again");
        assert!(first != renamed && first != changed && renamed != changed);
        assert!(Transforms::records(&format!("[{:?}]", library.display().to_string())).unwrap()[0].sha256.is_some());
    }
}
