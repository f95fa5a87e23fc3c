//! Plain text files as a table with one column, read while the query runs.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;

use crate::split::Split;

/// A record batch is closed when it holds this many bytes of text.
const BATCH_BYTES: usize = 1 << 20;

/// Text files, one after the other.
#[derive(Debug)]
pub struct TextFiles {
    paths: Vec<PathBuf>,
    separator: Option<String>,
    schema: SchemaRef,
}

impl TextFiles {
    /// A table with column `column`: a row for each file, or for each piece between separators.
    pub fn new(paths: Vec<PathBuf>, separator: Option<String>, column: &str) -> Self {
        let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Utf8, false)]));
        Self { paths, separator, schema }
    }

    fn documents(&self) -> impl Iterator<Item = Result<String>> + Send + use<> {
        let separator = self.separator.clone();
        self.paths.clone().into_iter().flat_map(move |path| match &separator {
            None => whole(&path),
            Some(separator) => pieces(path, separator),
        })
    }
}

type Texts = Box<dyn Iterator<Item = Result<String>> + Send>;

fn whole(path: &Path) -> Texts {
    let text = fs::read(path).map_err(|e| failed(path, &e)).and_then(|bytes| utf8(path, bytes));
    Box::new(std::iter::once(text))
}

fn pieces(path: PathBuf, separator: &str) -> Texts {
    match File::open(&path) {
        Err(e) => Box::new(std::iter::once(Err(failed(&path, &e)))),
        Ok(file) => Box::new(Split::new(BufReader::new(file), separator).map(move |piece| {
            let piece = utf8(&path, piece.map_err(|e| failed(&path, &e))?)?;
            Ok(piece.trim().to_owned())
        })),
    }
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| failed(path, &format!("not UTF-8: {}; convert it with iconv", e.utf8_error())))
}

fn failed(path: &Path, problem: &dyn std::fmt::Display) -> DataFusionError {
    DataFusionError::Execution(format!("{}: {problem}", path.display()))
}

impl PartitionStream for TextFiles {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (schema, mut documents) = (self.schema.clone(), self.documents());
        let batches = std::iter::from_fn(move || {
            let (mut texts, mut bytes) = (Vec::new(), 0);
            while bytes < BATCH_BYTES {
                match documents.next() {
                    None => break,
                    Some(Err(e)) => return Some(Err(e)),
                    Some(Ok(text)) => {
                        // Short and empty texts count too: a batch has an end in any case.
                        bytes += text.len() + 16;
                        texts.push(text);
                    }
                }
            }
            let column = Arc::new(StringArray::from_iter_values(&texts));
            (!texts.is_empty()).then(|| Ok(RecordBatch::try_new(schema.clone(), vec![column])?))
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches)))
    }
}
