//! The texts of a checkpoint, as the sampler recorded them.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use difflow_schema::run::RunDir;
use serde_json::{Value, json};

/// Most texts of a kind that a reader gets.
const TEXTS: usize = 12;

/// Steps of the checkpoints that have samples, in order.
pub fn steps(dir: &RunDir) -> Vec<u64> {
    let any = dir.samples(0);
    let entries = any.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let step = |name: &str| name.strip_prefix("step-")?.strip_suffix(".json")?.parse().ok();
    let mut steps: Vec<u64> = entries.filter_map(|entry| step(entry.file_name().to_str()?)).collect();
    steps.sort_unstable();
    steps
}

/// The texts of the checkpoint after `step` steps, some of each kind, those first that show how they were unmasked.
///
/// # Errors
/// When there is no such file, or it is none.
pub fn read(dir: &RunDir, step: u64) -> io::Result<Value> {
    let mut file: Value = serde_json::from_slice(&fs::read(dir.samples(step))?)?;
    let mut samples = file.get_mut("samples").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
    let told =
        |sample: &Value| sample.get("history").and_then(Value::as_array).is_some_and(|tokens| !tokens.is_empty());
    samples.sort_by_key(|sample| !told(sample));
    let mut count = BTreeMap::new();
    samples.retain(|sample| {
        let kind = sample.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let count: &mut usize = count.entry(kind).or_default();
        *count += 1;
        *count <= TEXTS
    });
    Ok(json!({ "step": step, "samples": samples }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_some_of_each_kind_and_those_with_a_history_first() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path(), "r");
        assert!(steps(&dir).is_empty() && read(&dir, 0).is_err());
        let text = |kind: &str, index: u64, history: Value| json!({"kind": kind, "index": index, "text": "a", "history": history});
        let mut samples: Vec<Value> = (0..40).map(|n| text("unconditional", n, json!([]))).collect();
        samples.push(text("unconditional", 40, json!([{"text": "a", "step": 0}])));
        samples.push(text("infill", 0, json!([])));
        for step in [600, 0] {
            fs::create_dir_all(dir.samples(step).parent().unwrap()).unwrap();
            fs::write(dir.samples(step), json!({"samples": samples}).to_string()).unwrap();
        }
        assert_eq!(steps(&dir), [0, 600]);
        let read = read(&dir, 600).unwrap();
        let read = read["samples"].as_array().unwrap();
        assert_eq!((read.len(), &read[0]["index"]), (TEXTS + 1, &json!(40)));
        assert!(read.iter().any(|sample| sample["kind"] == "infill"));
    }
}
