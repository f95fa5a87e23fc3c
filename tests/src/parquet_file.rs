//! Small Parquet files for tests.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::reader::{FileReader, SerializedFileReader};

/// A Parquet file with one text column.
pub fn write_parquet(path: &Path, column: &str, texts: &[&str]) {
    let array: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    let batch = RecordBatch::try_from_iter([(column, array)]).expect("one column");
    let file = File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a Parquet writer");
    writer.write(&batch).expect("rows are written");
    writer.close().expect("the file is finished");
}

/// Returns the number of rows of a Parquet file.
pub fn parquet_rows(path: &Path) -> u64 {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let reader = SerializedFileReader::new(file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    reader.metadata().file_metadata().num_rows().try_into().expect("a count")
}
