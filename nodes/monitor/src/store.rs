//! The metrics store: Parquet parts in the run's `metrics/` folder, readable by any Parquet reader.
//!
//! Columns: step (u64), name, value (f64), node. A part is written completely and then renamed, so no part is ever
//! incomplete. The open part is rewritten with new rows, up to [`PART_ROWS`]. Where parts repeat a (node, name,
//! step), the later part is right.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, UInt64Type};
use difflow_schema::run::write_atomically;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::history::Row;

/// Rows after which a new part is begun: rewriting the open one stays a matter of milliseconds.
const PART_ROWS: usize = 50_000;

/// Why metrics cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or a file of it.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no part.
    #[error("{}: not a part of the metrics store: {problem}; move it away, the run does not need it", path.display())]
    Part {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// Encoding failed.
    #[error("cannot encode metrics: {0}")]
    Encode(#[from] ParquetError),
}

/// The open part of a store.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    number: u64,
    rows: Vec<Row>,
    unsaved: bool,
}

impl Store {
    /// Opens the store in `folder` and gives `take` what earlier processes of the run left, oldest first.
    ///
    /// # Errors
    /// When the folder or a part cannot be read.
    pub fn open(folder: &Path, mut take: impl FnMut(Row)) -> Result<Self, StoreError> {
        let parts = parts(folder).map_err(|source| StoreError::Io { path: folder.to_owned(), source })?;
        let number = parts.last().map_or(0, |(number, _)| number + 1);
        for (_, path) in &parts {
            read_part(path, &mut take)?;
        }
        Ok(Self { folder: folder.to_owned(), number, rows: Vec::new(), unsaved: false })
    }

    /// Takes rows; [`Store::save`] writes them.
    pub fn add(&mut self, rows: Vec<Row>) {
        self.unsaved |= !rows.is_empty();
        self.rows.extend(rows);
    }

    /// Writes the open part if there is something new.
    ///
    /// # Errors
    /// When the file cannot be written; the rows stay, the next call tries again.
    pub fn save(&mut self) -> Result<(), StoreError> {
        if !self.unsaved {
            return Ok(());
        }
        let path = self.folder.join(format!("part-{:06}.parquet", self.number));
        write_atomically(&path, &encode(&self.rows)?).map_err(|source| StoreError::Io { path, source })?;
        self.unsaved = false;
        if self.rows.len() >= PART_ROWS {
            self.number += 1;
            self.rows.clear();
        }
        Ok(())
    }
}

/// The parts of a store with their numbers, in order.
fn parts(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut parts = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("part-").and_then(|name| name.strip_suffix(".parquet"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            parts.push((number, path));
        }
    }
    parts.sort();
    Ok(parts)
}

fn encode(rows: &[Row]) -> Result<Vec<u8>, ParquetError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.step))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.name))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.value))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.node))),
    ];
    let kinds = [DataType::UInt64, DataType::Utf8, DataType::Float64, DataType::Utf8];
    let names = ["step", "name", "value", "node"];
    let fields: Vec<Field> = names.into_iter().zip(kinds).map(|(name, kind)| Field::new(name, kind, false)).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(zstd).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(bytes)
}

fn read_part(path: &Path, take: &mut impl FnMut(Row)) -> Result<(), StoreError> {
    let part = |problem: String| StoreError::Part { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
    for batch in reader.map_err(|e| part(e.to_string()))? {
        let batch = batch.map_err(|e| part(e.to_string()))?;
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| part(format!("no column `{name}`")));
        let wrong = |name: &str| part(format!("column `{name}` has another type"));
        let steps = column("step")?.as_primitive_opt::<UInt64Type>().ok_or_else(|| wrong("step"))?;
        let values = column("value")?.as_primitive_opt::<Float64Type>().ok_or_else(|| wrong("value"))?;
        let names = column("name")?.as_string_opt::<i32>().ok_or_else(|| wrong("name"))?;
        let nodes = column("node")?.as_string_opt::<i32>().ok_or_else(|| wrong("node"))?;
        (0..batch.num_rows()).for_each(|i| {
            take(Row {
                node: nodes.value(i).to_owned(),
                name: names.value(i).to_owned(),
                step: steps.value(i),
                value: values.value(i),
            });
        });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::history::History;
    use crate::history::tests::row;

    /// The store and all rows that it has.
    fn open(folder: &Path) -> (Store, Vec<Row>) {
        let mut rows = Vec::new();
        (Store::open(folder, |row| rows.push(row)).unwrap(), rows)
    }

    #[test]
    fn a_resumed_run_keeps_its_history_and_repeated_steps_are_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("metrics");
        let (mut first, rows) = open(&folder);
        assert!(rows.is_empty());
        first.add(vec![row("loss", 1, 5.0), row("loss", 2, 4.0)]);
        first.save().unwrap();
        first.add(vec![row("loss", 3, 3.0)]);
        first.save().unwrap();
        let (mut second, rows) = open(&folder);
        assert_eq!(rows.len(), 3);
        second.add(vec![row("loss", 3, 3.5), row("loss", 4, f64::INFINITY)]);
        second.save().unwrap();
        let mut history = History::default();
        Store::open(&folder, |row| history.add(&row)).unwrap();
        assert_eq!(history.series("loss"), [(1, 5.0), (2, 4.0), (3, 3.5), (4, f64::INFINITY)]);
    }

    /// A million steps must not mean ever larger writes, nor thousands of files.
    #[test]
    fn a_full_part_is_left_alone_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path()).0;
        store.add((0..PART_ROWS as u64).map(|step| row("loss", step, 1.0)).collect());
        store.save().unwrap();
        store.add(vec![row("loss", 1 << 40, 1.0)]);
        store.save().unwrap();
        store.save().unwrap();
        assert_eq!(parts(dir.path()).unwrap().len(), 2);
        assert_eq!(open(dir.path()).1.len(), PART_ROWS + 1);
    }

    #[test]
    fn a_file_that_is_no_part_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("part-000000.parquet"), b"nonsense").unwrap();
        fs::write(dir.path().join("part-000001.parquet.partial"), b"half").unwrap();
        let error = Store::open(dir.path(), |_| ()).unwrap_err().to_string();
        assert!(error.contains("part-000000.parquet: not a part"), "{error}");
    }
}
