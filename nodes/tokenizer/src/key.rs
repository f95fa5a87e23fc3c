//! The key of a token store: what its content depends on. The same key means the same tokens.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use difflow_schema::run::{bytes_sha256, file_sha256};
use eyre::{Context, Result};
use serde_json::{Map, Value, json};

use crate::config::Config;

/// Keys of the corpus that may stand in the dataflow's shared `env:` instead of the node's own.
const CORPUS_KEYS: [&str; 6] = ["SOURCES", "TEXT_COLUMN", "SQL", "TEXT_SEPARATOR", "SEED", "TRANSFORMS"];
/// A key of the corpus that does not change the documents.
const WITHOUT_EFFECT: &str = "DOCUMENTS_PER_BATCH";

/// The key: sha256 of the tokenizer's file, this node's keys that shape rows, and the configuration and files of the node that
/// sends the documents. `dataflow` is the parsed dataflow file, `id` this node's id in it, `lookup` the process environment.
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
    let content = json!({
        "layout": 1,
        "tokenizer": tokenizer,
        "bos": config.bos_token,
        "eos": config.eos_token,
        "length": config.sequence_length,
        "packing": config.packing,
        "sender": sender.and_then(|node| node.get("path")),
        "files": files(&keys),
        "keys": keys,
    });
    Ok(bytes_sha256(content.to_string().as_bytes()))
}

/// The node whose output is connected to this node's input `documents`.
fn sender<'a>(dataflow: &'a Value, id: &str) -> Option<&'a Value> {
    let nodes = dataflow.get("nodes")?.as_array()?;
    let named = |id: &str| nodes.iter().find(|node| node.get("id").and_then(Value::as_str) == Some(id));
    let input = named(id)?.get("inputs")?.get("documents")?;
    let source = input.as_str().or_else(|| input.get("source")?.as_str())?;
    named(source.split_once('/')?.0)
}

/// Path, size and time of change of every file that SOURCES can mean; of a pattern, all files below its fixed part.
fn files(keys: &Map<String, Value>) -> Vec<Value> {
    let sources = keys.get("SOURCES").and_then(Value::as_str).unwrap_or_default();
    let sources: Vec<Value> = serde_json::from_str(sources).unwrap_or_default();
    let mut found = Vec::new();
    for path in sources.iter().filter_map(|source| source.get("path")?.as_str()) {
        let whole = Path::new(path).exists();
        let fixed = path.split(['*', '?', '[']).next().filter(|_| !whole).unwrap_or(path);
        let fixed = if fixed == path { fixed } else { fixed.rsplit_once('/').map_or(".", |(folder, _)| folder) };
        walk(Path::new(fixed), &mut found);
    }
    found
}

fn walk(path: &Path, found: &mut Vec<Value>) {
    // What cannot be read here is reported by the corpus, which has to read it.
    let Ok(meta) = fs::metadata(path) else { return };
    if !meta.is_dir() {
        let changed = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        found.push(json!([path.display().to_string(), meta.len(), changed.map(|time| time.as_nanos().to_string())]));
        return;
    }
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().for_each(|path| walk(path, found));
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
}
