//! What the sampler and the evaluator wrote to the run's folder. dora's edges may lose a message, above all the last
//! one of a node that ends; these files are either complete or absent, so the final screen and report are complete.

use std::fs;
use std::path::{Path, PathBuf};

use difflow_schema::Texts;

use crate::history::{History, Row};

/// Adds to `history` what the files of a folder have and no message brought. Returns the metrics added, as measured by `node`.
pub fn complete(history: &mut History, folder: &Path, node: &str) -> Vec<Row> {
    let mut added = Vec::new();
    for path in files(folder) {
        // A file of scores is one of results without texts.
        let Ok(results) = Texts::read(&path) else { continue };
        history.add_samples(results.samples().0);
        let Texts { step, metrics, .. } = results;
        for (name, value) in metrics {
            if history.series(&name).iter().all(|(known, _)| *known != step) {
                let row = Row { node: node.to_owned(), name, step, value: value.unwrap_or(f64::NAN) };
                history.add(&row);
                added.push(row);
            }
        }
    }
    added
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    files
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_no_message_brought_comes_from_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = |step: u64, text: &str| {
            let text = format!(
                r#"{{"step": {step}, "metrics": {{"pass_rate": 0.5, "entropy": null}}, "seconds": 1, "samples": [{{"index": 0,
                "kind": "unconditional", "prompt": "", "text": "{text}", "verdict": "ok", "nfe": 3, "seconds": 0.5}}]}}"#
            );
            fs::write(dir.path().join(format!("step-{step:08}.json")), text).unwrap();
        };
        file(1, "a");
        file(2, "b");
        fs::write(dir.path().join("step-00000003.json"), "{").unwrap();
        let mut history = History::default();
        history.add(&Row { node: "sampler".into(), name: "pass_rate".into(), step: 1, value: 0.25 });
        let added = complete(&mut history, dir.path(), "sampler");
        assert_eq!(history.series("pass_rate"), [(1, 0.25), (2, 0.5)], "a message's word counts");
        assert_eq!(
            added.iter().map(|row| (row.name.as_str(), row.step)).collect::<Vec<_>>(),
            [("entropy", 1), ("entropy", 2), ("pass_rate", 2)]
        );
        assert_eq!(history.last_samples("unconditional")[0].text, "b");
        assert!(complete(&mut history, &dir.path().join("none"), "sampler").is_empty());
    }
}
