//! The metrics of runs, as stored by their monitors.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, UInt64Type};
use eyre::{Context, Result, eyre};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Values by (node, name, step); a later part of the store overrules an earlier one.
pub type Metrics = BTreeMap<(String, String, u64), f64>;

/// Reads the `metrics/` folder of a run. A run without one has none.
///
/// # Errors
/// A part that cannot be read.
pub fn read(folder: &Path) -> Result<Metrics> {
    let mut paths: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()).collect(),
        Err(_) => return Ok(Metrics::new()),
    };
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    paths.sort();
    let mut metrics = Metrics::new();
    for path in paths {
        part(&path, &mut metrics).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(metrics)
}

fn part(path: &Path, metrics: &mut Metrics) -> Result<()> {
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()? {
        let batch = batch?;
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| eyre!("no column `{name}`"));
        let wrong = |name: &str| eyre!("column `{name}` has another type");
        let steps = column("step")?.as_primitive_opt::<UInt64Type>().ok_or_else(|| wrong("step"))?;
        let values = column("value")?.as_primitive_opt::<Float64Type>().ok_or_else(|| wrong("value"))?;
        let names = column("name")?.as_string_opt::<i32>().ok_or_else(|| wrong("name"))?;
        let nodes = column("node")?.as_string_opt::<i32>().ok_or_else(|| wrong("node"))?;
        for i in (0..batch.num_rows()).filter(|&i| !values.is_null(i)) {
            metrics.insert((nodes.value(i).to_owned(), names.value(i).to_owned(), steps.value(i)), values.value(i));
        }
    }
    Ok(())
}

/// The last value of a metric, with its step.
pub fn last(metrics: &Metrics, name: &str) -> Option<(u64, f64)> {
    let all = metrics.iter().filter(|((_, found, _), _)| found == name);
    all.map(|((_, _, step), value)| (*step, *value)).max_by_key(|(step, _)| *step)
}

/// The value of a metric at step 0: before adaptation.
pub fn before(metrics: &Metrics, name: &str) -> Option<f64> {
    metrics.iter().find(|((_, found, step), _)| found == name && *step == 0).map(|(_, value)| *value)
}
