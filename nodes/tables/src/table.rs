//! The files of a path as a DataFusion table. Only headers and the first rows are read here, for the names and types of
//! columns.

use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::FileProblem;
use crate::caught::caught;
use crate::files::{self, Format, Reading};
use crate::text_files::TextFiles;

/// Rows that are in memory at once for each table, at most.
const ROWS: usize = 1024;

/// A session that keeps the order of the files and of their rows: one partition, nothing runs beside anything else.
pub fn session() -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(1).with_batch_size(ROWS);
    // Statistics would open every file before the first document comes.
    SessionContext::new_with_config(config.with_collect_statistics(false))
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
    let (paths, reading) = files::find(path, format)?;
    let table = if reading.format == Format::Text {
        let texts = TextFiles::new(paths, reading.compression, texts.clone());
        let schema = datafusion::physical_plan::streaming::PartitionStream::schema(&texts).clone();
        StreamingTable::try_new(schema, vec![Arc::new(texts)]).map(|table| Arc::new(table) as _)
    } else {
        let urls: std::io::Result<Vec<String>> = paths.iter().map(|path| url(path)).collect();
        let urls = urls.map_err(|e| FileProblem::new(format!("path `{path}`"), e))?;
        let table = caught(listing(&urls, reading)).await;
        table.unwrap_or_else(|panic| Err(DataFusionError::External(panic.into())))
    };
    table.map_err(|e| {
        let wanted = format!("wanted: {:?} files that can be read; or give another `format`", reading.format);
        FileProblem::new(format!("path `{path}`: {}", e.strip_backtrace()), wanted.to_lowercase())
    })
}

async fn listing(urls: &[String], reading: Reading) -> Result<Arc<dyn TableProvider>> {
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
    let urls: Result<Vec<ListingTableUrl>> = urls.iter().map(ListingTableUrl::parse).collect();
    let options = ListingOptions::new(format).with_file_extension("");
    let config = ListingTableConfig::new_with_multi_paths(urls?).with_listing_options(options);
    Ok(Arc::new(ListingTable::try_new(config.infer_schema(&session().state()).await?)?))
}

/// A file's path as a URL: DataFusion takes `*`, `?` and `[` in a bare path for a pattern.
fn url(path: &Path) -> std::io::Result<String> {
    let path = std::path::absolute(path)?;
    let encoded = path.as_os_str().as_encoded_bytes().iter().map(|&byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    });
    Ok(format!("file://{}", encoded.collect::<String>()))
}
