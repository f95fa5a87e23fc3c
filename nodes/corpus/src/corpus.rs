//! The corpus as one stream of texts, in an order that depends only on the configuration and the files.

use std::fmt::Display;

use datafusion::arrow::array::{Array, AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::execution::SendableRecordBatchStream;
use difflow_node_kit::{Problem, Problems};
use futures::StreamExt;

use crate::caught::caught;
use crate::config::Config;
use crate::mix;
use crate::query::{self, Query};

/// What can be read, any number of times.
pub struct Corpus {
    queries: Vec<Query>,
    key: &'static str,
    seed: u64,
}

impl Corpus {
    /// Opens the sources.
    ///
    /// # Errors
    /// What is wrong with SOURCES, SQL or TEXT_COLUMN.
    pub async fn open(config: &Config) -> Result<Self, Problems> {
        let key = if config.sql.is_some() { "SQL" } else { "SOURCES" };
        Ok(Self { queries: query::plan(config).await?, key, seed: config.seed })
    }

    /// Starts reading from the first document.
    ///
    /// # Errors
    /// When a query cannot be run.
    pub async fn read(&self) -> Result<Reader, Problem> {
        self.read_mixed(self.seed).await
    }

    /// As [`Corpus::read`], with the sources mixed by another seed.
    ///
    /// # Errors
    /// When a query cannot be run.
    pub async fn read_mixed(&self, seed: u64) -> Result<Reader, Problem> {
        let mut inputs = Vec::new();
        for query in &self.queries {
            let failed = |error: &dyn Display| unreadable(self.key, &query.paths, error);
            let stream = caught(query.frame.clone().execute_stream()).await.map_err(|e| failed(&e))?;
            let stream = stream.map_err(|e| failed(&e))?;
            inputs.push(Input { key: self.key, paths: query.paths.clone(), stream, texts: None });
        }
        let weights = self.queries.iter().map(|query| query.weight).collect();
        Ok(Reader { inputs, weights, seed, index: 0 })
    }
}

fn unreadable(key: &str, paths: &str, error: &dyn Display) -> Problem {
    Problem::new(key, paths, format!("it cannot be read: {error}"))
}

/// One pass over the corpus.
pub struct Reader {
    inputs: Vec<Input>,
    weights: Vec<f64>,
    seed: u64,
    index: u64,
}

impl Reader {
    /// The next document; `None` after the last.
    ///
    /// # Errors
    /// When a file turns out not to be readable.
    pub async fn next(&mut self) -> Result<Option<String>, Problem> {
        while let Some(place) = mix::draw(&self.weights, self.seed, self.index) {
            if let Some(text) = self.inputs[place].next().await? {
                self.index += 1;
                return Ok(Some(text));
            }
            // It ended: the same document is drawn again, among the others.
            self.weights[place] = 0.0;
        }
        Ok(None)
    }
}

/// One query's rows.
struct Input {
    key: &'static str,
    paths: String,
    stream: SendableRecordBatchStream,
    texts: Option<(StringArray, usize)>,
}

impl Input {
    async fn next(&mut self) -> Result<Option<String>, Problem> {
        loop {
            if let Some((texts, at)) = &mut self.texts {
                while *at < texts.len() {
                    let row = *at;
                    *at += 1;
                    if !texts.is_null(row) && !texts.value(row).is_empty() {
                        return Ok(Some(texts.value(row).to_owned()));
                    }
                }
            }
            let failed = |error: &dyn Display| unreadable(self.key, &self.paths, error);
            let batch = caught(self.stream.next()).await.map_err(|e| failed(&e))?;
            let Some(batch) = batch else { return Ok(None) };
            let batch = batch.map_err(|e| failed(&e.strip_backtrace()))?;
            let texts = cast(batch.column(0), &DataType::Utf8).map_err(|e| failed(&e))?;
            self.texts = Some((texts.as_string::<i32>().clone(), 0));
        }
    }
}
