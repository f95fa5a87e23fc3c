//! A node's part of run.json: its resolved keys, written and compared by the node itself.

use std::collections::BTreeMap;
use std::path::Path;

use difflow_schema::run::RunDir;
use difflow_schema::{Record, RecordError};
use eyre::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::config::{self, Config};
use crate::{Problem, Problems};

/// Schema extension of a field that may have another value when a run is resumed: it changes how the run goes, not its
/// results.
pub const MAY_CHANGE: &str = "x-may-change";
/// Schema extension of a field that names a file or folder whose content is compared elsewhere, so that its path may
/// change.
pub const BY_CONTENT: &str = "x-by-content";
/// Schema extension of a field that is written into no file.
pub const SECRET: &str = "x-secret";

/// Returns true if a key's schema has that extension.
pub fn marked(schema: &Value, extension: &str) -> bool {
    schema.get(extension) == Some(&Value::Bool(true))
}

/// Who writes, and in which start of the dataflow.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The node's name.
    pub name: &'a str,
    /// Its program.
    pub program: &'a str,
    /// dora's name for this start.
    pub start: &'a str,
}

/// Compares a node's keys with those of its run, and writes them. As long as the run has no checkpoint, nothing depends
/// on them, and whatever an earlier start wrote is dropped. Errors with [`Problems`] if keys changed that may not, or
/// if the run's folder cannot be used.
pub fn enter<C: Config>(config: &C, writer: Writer) -> Result<()> {
    let Value::Object(values) = serde_json::to_value(config)? else { bail!("a configuration is not a mapping") };
    let dir = config.run().dir();
    let schemas: BTreeMap<String, Value> = config::keys(&config::schema::<C>()).into_iter().collect();
    let begun = !dir.checkpoint_steps().map_err(|e| unwritable(&dir, &e))?.is_empty();
    let result = Record::update(&dir, |record| {
        if !begun && record.start != writer.start {
            *record = Record { more: std::mem::take(&mut record.more), ..Record::default() };
        }
        if record.difflow.is_empty() {
            (record.difflow, record.start) = (env!("CARGO_PKG_VERSION").to_owned(), writer.start.to_owned());
        }
        if begun {
            Problems(differences(record, writer.name, &values, &schemas)).into_result()?;
        }
        let own = format!("{}.", writer.name);
        record.configuration.retain(|key, _| key.strip_prefix(&own).is_none_or(|key| key.contains('.')));
        record.nodes.insert(writer.name.to_owned(), writer.program.to_owned());
        let public = |key: &str| !schemas.get(key).is_some_and(|schema| marked(schema, SECRET));
        let keys = values.into_iter().filter(|(key, _)| public(key));
        record.configuration.extend(keys.map(|(key, value)| (format!("{own}{key}"), value)));
        Ok::<(), Problems>(())
    });
    match result {
        Ok(result) => Ok(result?),
        Err(RecordError::Io(e)) => Err(unwritable(&dir, &e).into()),
        Err(e) => Err(e).with_context(|| format!("the record of the run, {}", dir.record().display())),
    }
}

/// Returns the keys that decide the results: all but the run's name and those that may change, so a new key decides
/// until its field says otherwise. Results made with other values are not used again.
pub fn deciding<C: Config>(config: &C) -> Value {
    let free = |key: &str, schema: &Value| key == "RUN" || marked(schema, MAY_CHANGE);
    let mut all = serde_json::to_value(config).unwrap_or_default();
    if let Some(keys) = all.as_object_mut() {
        config::keys(&config::schema::<C>()).iter().filter(|(key, schema)| free(key, schema)).for_each(|(key, _)| {
            keys.remove(key);
        });
    }
    all
}

fn unwritable(dir: &RunDir, error: &dyn std::fmt::Display) -> Problems {
    let root: &Path = dir.root();
    Problem::new("RUNS", root.display(), format!("this folder cannot be written to: {error}")).into()
}

/// Returns the keys that changed and may not. Keys that only the record has no longer exist; a key that the record of
/// an older difflow lacks had its default.
fn differences(
    record: &Record,
    name: &str,
    values: &Map<String, Value>,
    schemas: &BTreeMap<String, Value>,
) -> Vec<Problem> {
    let (own, old) = (format!("{name}."), !record.nodes.contains_key(name));
    // Nothing to compare: a fork begins with checkpoints and without a record, and a node may not have been there before. One of an
    // older difflow wrote only what stood in the dataflow file.
    let unknown = record.configuration.is_empty()
        || (!record.nodes.is_empty() && !record.configuration.keys().any(|key| key.starts_with(&own)));
    if old && unknown {
        return Vec::new();
    }
    let before = |key: &str| {
        let found = record.configuration.get(&format!("{own}{key}"));
        found.or_else(|| old.then(|| record.configuration.get(key)).flatten())
    };
    let free = |schema: &Value| marked(schema, MAY_CHANGE) || marked(schema, BY_CONTENT);
    let mut problems = Vec::new();
    for (key, schema) in schemas.iter().filter(|(_, schema)| !free(schema)) {
        let Some(now) = values.get(key) else { continue };
        let (same, before) = match before(key) {
            Some(before) => (before == now || (old && config::means(before, schema, now)), before.to_string()),
            None => (!old || schema.get("default").is_none_or(|default| default == now), "its default".to_owned()),
        };
        if !same {
            let was = format!("this run began with {before}; put it back, or choose another RUN");
            problems.push(Problem::new(format!("{own}{key}"), now, was));
        }
    }
    problems
}
