//! The corpus as one stream of documents, in an order that depends only on the configuration and the files.

use std::error::Error;

use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use difflow_node_kit::problem::Kind;
use difflow_node_kit::{Problem, Problems};
use difflow_tables::{Fault, RemoteError, caught};
use futures::StreamExt;

use crate::config::{Columns, Config};
use crate::document::{Document, Rows, Wrong};
use crate::mix;
use crate::query::{self, Query};
use crate::source::{self, Listed};

/// What can be read, any number of times.
pub struct Corpus {
    queries: Vec<Query>,
    columns: Columns,
    key: &'static str,
    seed: u64,
}

impl Corpus {
    /// Looks for the files of the sources and opens them.
    ///
    /// # Errors
    /// What is wrong with SOURCES, SQL or TEXT_COLUMN.
    pub async fn open(config: &Config) -> Result<Self, Problems> {
        Self::of(config, &source::list(&config.sources)?).await
    }

    /// Opens sources whose files were found before.
    ///
    /// # Errors
    /// As [`Corpus::open`].
    pub async fn of(config: &Config, listed: &[Listed]) -> Result<Self, Problems> {
        let key = if config.sql.is_some() { "SQL" } else { "SOURCES" };
        Ok(Self { queries: query::plan(config, listed).await?, columns: config.columns(), key, seed: config.seed })
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
            let stream = unless_panicked(caught(query.frame.clone().execute_stream()).await);
            let stream = stream.map_err(|e| unreadable(self.key, &query.paths, &e))?;
            let (paths, columns) = (query.paths.clone(), self.columns.clone());
            inputs.push(Input { key: self.key, paths, columns, stream, rows: None, read: 0 });
        }
        let weights = self.queries.iter().map(|query| query.weight).collect();
        Ok(Reader { inputs, weights, seed, index: 0 })
    }
}

fn unless_panicked<T>(done: Result<Result<T, DataFusionError>, String>) -> Result<T, DataFusionError> {
    done.unwrap_or_else(|panic| Err(DataFusionError::External(panic.into())))
}

fn unreadable(key: &str, paths: &str, error: &DataFusionError) -> Problem {
    match RemoteError::within(error as &(dyn Error + 'static)) {
        Some(RemoteError { url, found, allowed, fault }) => {
            let kind = if *fault == Fault::Server { Kind::Server } else { Kind::Value };
            Problem::new("SOURCES", url, format!("{found}; {allowed}")).of_kind(kind)
        }
        None => {
            let error = match error {
                // A panic, which is no error of its own.
                DataFusionError::External(error) => error.to_string(),
                error => error.strip_backtrace(),
            };
            Problem::new(key, paths, format!("it cannot be read: {error}"))
        }
    }
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
    /// When a file turns out not to be readable, or a conversation cannot be learned from.
    pub async fn next(&mut self) -> Result<Option<Document>, Problem> {
        while let Some(place) = mix::draw(&self.weights, self.seed, self.index) {
            if let Some(document) = self.inputs[place].next().await? {
                self.index += 1;
                return Ok(Some(document));
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
    columns: Columns,
    stream: SendableRecordBatchStream,
    /// Rows at hand, and the next of them.
    rows: Option<(Rows, usize)>,
    /// Rows read before those at hand.
    read: u64,
}

impl Input {
    async fn next(&mut self) -> Result<Option<Document>, Problem> {
        loop {
            if let Some((rows, at)) = &mut self.rows {
                while *at < rows.len() {
                    let row = *at;
                    *at += 1;
                    let document = rows.document(row);
                    let wrong = |e: Wrong| e.problem(&self.columns, self.read + row as u64, &self.paths);
                    if let Some(document) = document.map_err(wrong)? {
                        return Ok(Some(document));
                    }
                }
                self.read += rows.len() as u64;
                self.rows = None;
            }
            let failed = |error: &DataFusionError| unreadable(self.key, &self.paths, error);
            let next = caught(self.stream.next()).await.map(Option::transpose);
            let Some(batch) = unless_panicked(next).map_err(|e| failed(&e))? else { return Ok(None) };
            self.rows = Some((Rows::of(&batch, &self.columns).map_err(|e| failed(&e.into()))?, 0));
        }
    }
}
