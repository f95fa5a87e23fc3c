//! The run's held-out documents: those given by HELDOUT, or some that are split off the corpus.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::parquet::arrow::ArrowWriter;
use difflow_node_kit::{Problem, Problems};
use difflow_plugin_host::Transforms;
use difflow_schema::Documents;
use difflow_schema::run::{RunDir, bytes_sha256, sync_folder};
use eyre::{Context, Result};
use serde_json::json;

use crate::config::Config;
use crate::corpus::{Corpus, Reader};
use crate::document::Document;
use crate::transformed::transformed;

/// One document in so many may be held out, by its key.
const ONE_IN: u64 = 20;
/// Seed of the mixture in which the corpus is looked through: not SEED, so that runs with different seeds hold out the same.
const SEED: u64 = 0;
/// Documents of a file that are in memory at once.
const CHUNK: usize = 1024;

/// What a document is held out by: a number that its text alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// That of a text.
    pub fn of(text: &str) -> Self {
        let digest = bytes_sha256(format!("difflow held-out\n{text}").as_bytes());
        Self(u64::from_str_radix(&digest[..16], 16).unwrap_or_default())
    }
}

/// Documents that were chosen from the corpus.
#[derive(Debug, Default, PartialEq)]
pub struct Split {
    /// By these they are left out of training.
    pub keys: BTreeSet<Key>,
    /// The documents.
    pub documents: Vec<Document>,
}

impl Split {
    /// What tells this choice from any other.
    pub fn identity(&self) -> String {
        bytes_sha256(json!(self.keys.iter().map(|key| key.0).collect::<Vec<_>>()).to_string().as_bytes())
    }
}

/// Chooses the documents to hold out. A run that was trained without a split goes on without one, for it has seen them all.
///
/// # Errors
/// When the corpus cannot be read.
pub async fn split(config: &Config, dir: &RunDir, corpus: &Corpus) -> Result<Split> {
    let trained = dir.checkpoint_steps().context("cannot list the checkpoints")?.last().is_some_and(|&step| step > 0);
    if config.heldout.is_some() || (trained && !dir.heldout().exists()) {
        return Ok(Split::default());
    }
    let reader = corpus.read_mixed(SEED).await.map_err(Problems::from)?;
    Ok(choose(reader, config.heldout_documents as usize).await.map_err(Problems::from)?)
}

/// The first `count` documents whose key is among the lowest twentieth; where the whole corpus has none, the one with the lowest key,
/// if another is left.
async fn choose(mut reader: Reader, count: usize) -> Result<Split, Problem> {
    let (mut split, mut read, mut lowest) = (Split::default(), BTreeSet::new(), None::<(Key, Document)>);
    while split.documents.len() < count {
        let Some(document) = reader.next().await? else { break };
        let key = Key::of(&document.text);
        if key.0 < u64::MAX / ONE_IN {
            if split.keys.insert(key) {
                split.documents.push(document);
            }
        } else if split.documents.is_empty() {
            // Two are enough to know that another is left.
            if read.len() < 2 {
                read.insert(key);
            }
            if lowest.as_ref().is_none_or(|(least, _)| key < *least) {
                lowest = Some((key, document));
            }
        }
    }
    if let (true, true, Some((key, document))) = (split.documents.is_empty(), read.len() > 1, lowest) {
        split.keys.insert(key);
        split.documents.push(document);
    }
    Ok(split)
}

/// Writes the held-out documents into the run's folder, as a column `text` (and of conversations one of `messages`), whole or not at all:
/// those that HELDOUT names, or the chosen ones as the transforms leave them. A run that goes on without a split gets no file.
///
/// # Errors
/// When HELDOUT cannot be read, a transform fails, or the run's folder cannot be written to.
pub async fn publish(config: &Config, dir: &RunDir, split: &Split, transforms: &mut Transforms) -> Result<()> {
    let path = dir.heldout();
    if let Some(heldout) = &config.heldout {
        let source = json!([{"path": heldout}]).to_string();
        let sources = Config { sources: source, sql: None, transforms: String::new(), ..config.clone() };
        let named = |problem: Problem| Problems::from(Problem { key: "HELDOUT".into(), ..problem });
        let corpus = Corpus::open(&sources).await.map_err(|mut problems| {
            problems.0.iter_mut().filter(|problem| problem.key == "SOURCES").for_each(|p| p.key = "HELDOUT".into());
            problems
        })?;
        let mut reader = corpus.read().await.map_err(named)?;
        let mut file = Partial::create(dir, config.conversations())?;
        loop {
            let mut documents = Vec::new();
            while documents.len() < CHUNK {
                let Some(document) = reader.next().await.map_err(named)? else { break };
                documents.push(document);
            }
            if documents.is_empty() {
                return file.finish();
            }
            file.write(documents)?;
        }
    }
    let trained = dir.checkpoint_steps()?.last().is_some_and(|&step| step > 0);
    if trained && !path.exists() {
        return Ok(());
    }
    let mut batch = Documents { doc: (0..split.documents.len() as u64).collect(), ..Documents::default() };
    for Document { text, messages } in &split.documents {
        batch.text.push(text.clone());
        batch.messages.extend(messages.clone());
    }
    let Documents { text, messages, .. } = transformed(transforms, 0, SEED, batch)?;
    let messages = messages.into_iter().map(Some).chain(std::iter::repeat(None));
    let documents = text.into_iter().zip(messages).map(|(text, messages)| Document { text, messages });
    // A transform may repeat documents for training.
    let mut seen = BTreeSet::new();
    let mut file = Partial::create(dir, config.conversations())?;
    file.write(documents.filter(|document| seen.insert(Key::of(&document.text))).collect())?;
    file.finish()
}

/// A Parquet file under a temporary name.
struct Partial {
    dir: RunDir,
    writer: ArrowWriter<File>,
    conversations: bool,
}

fn batch(documents: Vec<Document>, conversations: bool) -> Result<RecordBatch> {
    let (texts, messages): (Vec<_>, Vec<_>) =
        documents.into_iter().map(|document| (document.text, document.messages)).unzip();
    let mut columns = vec![("text", Arc::new(StringArray::from(texts)) as ArrayRef)];
    if conversations {
        columns.push(("messages", Arc::new(StringArray::from(messages))));
    }
    Ok(RecordBatch::try_from_iter(columns)?)
}

impl Partial {
    fn create(dir: &RunDir, conversations: bool) -> Result<Self> {
        let path = dir.heldout().with_extension("partial");
        let open = || -> Result<_> {
            fs::create_dir_all(dir.root())?;
            Ok(ArrowWriter::try_new(File::create(&path)?, batch(Vec::new(), conversations)?.schema(), None)?)
        };
        let writer = open().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { dir: dir.clone(), writer, conversations })
    }

    fn write(&mut self, documents: Vec<Document>) -> Result<()> {
        let batch = batch(documents, self.conversations)?;
        self.writer.write(&batch).with_context(|| format!("cannot write {}", self.dir.heldout().display()))
    }

    fn finish(self) -> Result<()> {
        let path = self.dir.heldout();
        let finish = || -> Result<()> {
            self.writer.into_inner()?.sync_all()?;
            fs::rename(path.with_extension("partial"), &path)?;
            Ok(sync_folder(self.dir.root())?)
        };
        finish().with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
#[path = "heldout_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
