//! The documents that `difflow score` reads.

use std::fs::File;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use eyre::{Context, Result, bail, eyre};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// What stands between two documents of a text file, besides an empty line.
const END_OF_TEXT: &str = "<|endoftext|>";

/// The documents of a text file: separated by `<|endoftext|>` where it has any, else by empty lines.
pub fn of_text(path: &Path, limit: usize) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let between = if text.contains(END_OF_TEXT) { END_OF_TEXT } else { "\n\n" };
    let documents = text.split(between).map(str::trim).filter(|document| !document.is_empty());
    Ok(documents.take(limit).map(str::to_owned).collect())
}

/// The first documents of a column of strings of a Parquet file.
pub fn of_parquet(path: &Path, column: &str, limit: usize) -> Result<Vec<String>> {
    let wrong = || format!("cannot read {} as Parquet", path.display());
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).with_context(wrong)?;
    let names: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
    if !names.iter().any(|name| name == column) {
        bail!("{}: found columns {}, wanted one named `{column}`; see --column", path.display(), names.join(", "));
    }
    let only = ProjectionMask::columns(reader.parquet_schema(), [column]);
    let mut documents = Vec::new();
    for batch in reader.with_projection(only).with_limit(limit).build().with_context(wrong)? {
        let batch = batch.with_context(wrong)?;
        let texts = arrow::compute::cast(batch.column(0), &DataType::LargeUtf8)
            .map_err(|e| eyre!("{}: column `{column}` is no text: {e}", path.display()))?;
        documents.extend(texts.as_string::<i64>().iter().flatten().map(str::to_owned));
    }
    Ok(documents)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn documents_end_at_the_marker_or_else_at_an_empty_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, "one\n\ntwo\nlines\n\n\n\nthree\n").unwrap();
        assert_eq!(of_text(&path, 9).unwrap(), ["one", "two\nlines", "three"]);
        assert_eq!(of_text(&path, 2).unwrap().len(), 2);
        std::fs::write(&path, "one\n\nstill<|endoftext|>\ntwo").unwrap();
        assert_eq!(of_text(&path, 9).unwrap(), ["one\n\nstill", "two"]);
        assert!(format!("{:#}", of_text(&dir.path().join("b.txt"), 1).unwrap_err()).contains("b.txt"));
    }
}
