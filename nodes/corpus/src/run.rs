//! The corpus node's loop: a demand arrives, the batches are sent.

use std::collections::BTreeMap;

use difflow_node_kit::{Event, Node, Problem, Problems};
use difflow_plugin_host::Transforms;
use difflow_schema::run::bytes_sha256;
use difflow_schema::{Demand, Documents, Facts, PlainDocuments};
use eyre::Result;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::batches::{Answer, Batches};
use crate::config::{Columns, Config};
use crate::corpus::Corpus;
use crate::corpus_files::{self, Found, Remembered};
use crate::heldout::{self, Split};
use crate::source::{self, Listed};
use crate::transformed::transformed;

/// Runs until nobody asks any more.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let runtime = Builder::new_current_thread().build()?;
    let dir = config.run.dir();
    let mut transforms = open_transforms(&config)?;
    // Before the files are read: of one that was changed in the middle it is said that it changed, not that it is damaged.
    let sources = source::list(&config.sources)?;
    let found = found(&sources);
    let known = corpus_files::check(&dir, &found)?;
    let corpus = runtime.block_on(Corpus::of(&config, &sources))?;
    let split = runtime.block_on(heldout::split(&config, &dir, &corpus))?;
    node.say("documents", &facts(&config, &node.name(), &known, &split)?)?;
    // An instance of their own: what the documents are sent through has seen none but those.
    runtime.block_on(heldout::publish(&config, &dir, &split, &mut open_transforms(&config)?))?;
    let mut batches = runtime.block_on(Batches::open(&config, corpus, split.keys))?;
    let mut ended = false;
    loop {
        match node.next(None)? {
            Event::Message(message) => {
                let demand: Demand = message.read()?;
                for seq in demand.next_seq..demand.next_seq + u64::from(demand.count) {
                    match runtime.block_on(batches.get(seq)).map_err(Problems::from)? {
                        Answer::Batch(batch) => {
                            node.send("documents", seq, &transformed(&mut transforms, seq, config.seed, batch)?)?;
                        }
                        Answer::Ended(end) => {
                            if !ended {
                                // Before the token store counts as complete.
                                corpus_files::unchanged(&found)?;
                                ended = true;
                            }
                            node.send_fin::<Documents>("documents", end)?;
                            break;
                        }
                    }
                }
            }
            Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(()),
            Event::Tick | Event::Timeout => {}
        }
    }
}

fn open_transforms(config: &Config) -> Result<Transforms, Problems> {
    Transforms::open::<PlainDocuments>(&config.transforms)
        .map_err(|e| Problems::from(Problem::new("TRANSFORMS", &config.transforms, e.to_string())))
}

/// The files of all sources.
fn found(sources: &[Listed]) -> Vec<Found> {
    sources.iter().flat_map(|listed| &listed.files.list).filter_map(corpus_files::look).collect()
}

/// What the nodes downstream need not be told by keys. The fingerprint changes with everything that changes the documents.
fn facts(config: &Config, name: &str, files: &[Remembered], split: &Split) -> Result<Facts> {
    let records = Transforms::records(&config.transforms)?;
    let transforms: Vec<Value> =
        records.iter().map(|record| json!([record.id, record.version, record.sha256, record.config])).collect();
    let mut content = json!({
        "layout": 1,
        "sources": config.sources,
        "text_column": config.text_column,
        "sql": config.sql,
        "text_separator": config.text_separator,
        "seed": config.seed,
        "files": files.iter().map(Remembered::identity).collect::<Vec<_>>(),
        "transforms": transforms,
        "heldout": split.identity(),
    });
    // Without conversations it is what it was before there were any.
    match config.columns() {
        Columns::Text(_) => {}
        Columns::Messages(messages) => content["messages_column"] = messages.into(),
        Columns::Exchange { prompt, response } => content["exchange_columns"] = json!([prompt, response]),
    }
    let mut plugins = BTreeMap::new();
    for (number, record) in records.iter().enumerate() {
        plugins.insert(format!("{name}.TRANSFORMS.{number}"), serde_json::to_value(record)?);
    }
    let (corpus, conversations) = (Some(bytes_sha256(content.to_string().as_bytes())), config.conversations());
    Ok(Facts { corpus, conversations, plugins, ..Facts::default() })
}

#[cfg(test)]
#[path = "run_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
