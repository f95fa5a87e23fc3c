//! Plain text files as a table, read while the query runs.

use std::io::{BufReader, Read};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;

use crate::files::File;
use crate::remote_error::RemoteError;
use crate::split::Split;
use crate::table::Texts;

/// A record batch is closed when it holds this many bytes of text.
const BATCH_BYTES: usize = 1 << 20;

/// Text files, one after the other.
#[derive(Debug)]
pub struct TextFiles {
    files: Vec<File>,
    compression: FileCompressionType,
    texts: Texts,
    schema: SchemaRef,
}

impl TextFiles {
    /// A table with a row for each file, for each piece between separators, or for a few of these.
    pub fn new(files: Vec<File>, compression: FileCompressionType, texts: Texts) -> Self {
        let column = |name: String| Field::new(name, DataType::Utf8, false);
        let fields: Vec<Field> = match texts.pieces {
            0 | 1 => vec![column(texts.column.clone())],
            many => (1..=many).map(|number| column(format!("{}_{number}", texts.column))).collect(),
        };
        Self { files, compression, texts, schema: Arc::new(Schema::new(fields)) }
    }

    fn documents(&self) -> impl Iterator<Item = Result<String>> + Send + use<> {
        let (separator, compression) = (self.texts.separator.clone(), self.compression);
        self.files.clone().into_iter().flat_map(move |file| match &separator {
            None => whole(&file, compression),
            Some(separator) => pieces(file, compression, separator),
        })
    }
}

type Documents = Box<dyn Iterator<Item = Result<String>> + Send>;

fn opened(file: &File, compression: FileCompressionType) -> Result<Box<dyn Read + Send>> {
    compression.convert_read(file.open().map_err(|e| failed(file, e))?)
}

fn whole(file: &File, compression: FileCompressionType) -> Documents {
    let text = opened(file, compression).and_then(|mut reader| {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|e| failed(file, e))?;
        utf8(file, bytes)
    });
    Box::new(std::iter::once(text))
}

fn pieces(file: File, compression: FileCompressionType, separator: &str) -> Documents {
    match opened(&file, compression) {
        Err(e) => Box::new(std::iter::once(Err(e))),
        Ok(reader) => Box::new(Split::new(BufReader::new(reader), separator).map(move |piece| {
            let piece = utf8(&file, piece.map_err(|e| failed(&file, e))?)?;
            Ok(piece.trim().to_owned())
        })),
    }
}

fn utf8(file: &File, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let found = format!("{file}: not UTF-8: {}; convert it with iconv", e.utf8_error());
        DataFusionError::Execution(found)
    })
}

fn failed(file: &File, problem: std::io::Error) -> DataFusionError {
    match RemoteError::within(&problem) {
        Some(error) => DataFusionError::External(Box::new(error.clone())),
        None => DataFusionError::Execution(format!("{file}: {problem}")),
    }
}

impl PartitionStream for TextFiles {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (schema, mut documents) = (self.schema.clone(), self.documents());
        let batches = std::iter::from_fn(move || {
            let (mut texts, mut bytes) = (Vec::new(), 0);
            // A row is not divided between two batches.
            while bytes < BATCH_BYTES || !texts.len().is_multiple_of(schema.fields().len()) {
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
            let width = schema.fields().len();
            let column = |at: usize| {
                let own = texts.chunks(width).map(|row| row.get(at).map_or("", String::as_str));
                Arc::new(StringArray::from_iter_values(own)) as ArrayRef
            };
            (!texts.is_empty()).then(|| Ok(RecordBatch::try_new(schema.clone(), (0..width).map(column).collect())?))
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches)))
    }
}
