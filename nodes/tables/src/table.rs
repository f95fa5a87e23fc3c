//! The files of a path as a DataFusion table. Only headers and the first rows are read here, for the names and types of
//! columns.

use std::io::BufReader;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::reader::{ValueIter, infer_json_schema_from_iterator};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::file_format::{DEFAULT_SCHEMA_INFER_MAX_RECORD, FileFormat};
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::FileProblem;
use crate::bucket::{Bucket, Object};
use crate::caught::caught;
use crate::files::{self, File, Files, Format, Reading};
use crate::remote_error::RemoteError;
use crate::remote_read::RemoteRead;
use crate::text_files::TextFiles;
use crate::versions::Versions;

/// Rows that are in memory at once for each table, at most.
const ROWS: usize = 1024;

/// A session that keeps the order of the files and of their rows: one partition, nothing runs beside anything else.
pub fn session() -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(1).with_batch_size(ROWS);
    // Statistics would open every file before the first document comes.
    let session = SessionContext::new_with_config(config.with_collect_statistics(false));
    for bucket in Bucket::opened() {
        // What was opened has such an address.
        if let Ok(url) = ObjectStoreUrl::parse(bucket.root()) {
            session.register_object_store(url.as_ref(), Arc::new(Versions(bucket)));
        }
    }
    session
}

/// How plain text becomes rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// What stands between two pieces of a file; white space around a piece is cut off. `None`: every file is one piece.
    pub separator: Option<String>,
    /// Name of the column.
    pub column: String,
    /// Pieces of a row. With more than one, the columns are `NAME_1`, `NAME_2`, …; what the last row lacks is empty.
    pub pieces: usize,
}

impl Default for Texts {
    fn default() -> Self {
        Self { separator: None, column: "text".into(), pieces: 1 }
    }
}

/// The table of the files at a path.
///
/// # Errors
/// When its files are missing or cannot be read as what they are said to be.
pub async fn open(
    path: &str,
    format: Option<Format>,
    texts: &Texts,
) -> std::result::Result<Arc<dyn TableProvider>, FileProblem> {
    table(path, &files::find(path, format)?, texts).await
}

/// The table of files that were found at a path.
///
/// # Errors
/// When they cannot be read as what they are said to be.
pub async fn table(
    path: &str,
    files: &Files,
    texts: &Texts,
) -> std::result::Result<Arc<dyn TableProvider>, FileProblem> {
    let reading = files.reading;
    let table = if reading.format == Format::Text {
        let texts = TextFiles::new(files.list.clone(), reading.compression, texts.clone());
        let schema = datafusion::physical_plan::streaming::PartitionStream::schema(&texts).clone();
        StreamingTable::try_new(schema, vec![Arc::new(texts)]).map(|table| Arc::new(table) as _)
    } else {
        let table = caught(listing(&files.list, reading)).await;
        table.unwrap_or_else(|panic| Err(DataFusionError::External(panic.into())))
    };
    table.map_err(|e| {
        if let Some(error) = RemoteError::within(&e) {
            return error.clone().into();
        }
        let wanted = format!("wanted: {:?} files that can be read; or give another `format`", reading.format);
        FileProblem::new(format!("path `{path}`: {}", e.strip_backtrace()), wanted.to_lowercase())
    })
}

async fn listing(files: &[File], reading: Reading) -> Result<Arc<dyn TableProvider>> {
    let format: Arc<dyn FileFormat> = match reading.format {
        Format::Parquet | Format::Text => Arc::new(ParquetFormat::default()),
        Format::Jsonl => Arc::new(JsonFormat::default().with_file_compression_type(reading.compression)),
        Format::Csv => Arc::new(
            CsvFormat::default()
                .with_has_header(true)
                .with_newlines_in_values(true)
                .with_delimiter(reading.delimiter)
                .with_file_compression_type(reading.compression),
        ),
    };
    let urls: Result<Vec<ListingTableUrl>> = files.iter().map(|file| ListingTableUrl::parse(url(file)?)).collect();
    let options = ListingOptions::new(format).with_file_extension("");
    let config = ListingTableConfig::new_with_multi_paths(urls?).with_listing_options(options);
    let config = match (reading.format, files.first()) {
        (Format::Jsonl, Some(File::Remote(first))) => config.with_schema(first_lines(first, reading)?),
        _ => config.infer_schema(&session().state()).await?,
    };
    Ok(Arc::new(ListingTable::try_new(config)?))
}

/// The columns of JSONL as DataFusion finds them in a file of this machine; of one that is elsewhere it would read all.
fn first_lines(object: &Object, reading: Reading) -> Result<SchemaRef> {
    let reader = RemoteRead::new(object);
    let failure = reader.failure();
    let lines = BufReader::new(reading.compression.convert_read(reader)?);
    let values = ValueIter::new(lines, None).take(DEFAULT_SCHEMA_INFER_MAX_RECORD);
    let wrong = |error: ArrowError| match failure.get() {
        Some(error) => DataFusionError::External(Box::new(error)),
        None => error.into(),
    };
    Ok(Arc::new(infer_json_schema_from_iterator(values).map_err(wrong)?))
}

/// A file's address: DataFusion takes `*`, `?` and `[` in a bare path for a pattern.
fn url(file: &File) -> std::io::Result<String> {
    let (root, path) = match file {
        File::Here(path) => ("file://".to_owned(), std::path::absolute(path)?.into_os_string().into_encoded_bytes()),
        File::Remote(object) => (format!("{}/", object.root()), object.path().as_ref().as_bytes().to_vec()),
    };
    let encoded = path.iter().map(|&byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    });
    Ok(format!("{root}{}", encoded.collect::<String>()))
}
