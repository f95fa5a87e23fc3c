//! Scores that the evaluator wrote to the run's folder.

use std::collections::BTreeMap;

use difflow_schema::Scores;
use difflow_schema::measures::RANKED_BY;
use difflow_schema::run::RunDir;

/// The scores of those of `steps` that have one.
pub fn scores(dir: &RunDir, steps: &[u64]) -> BTreeMap<u64, f64> {
    steps.iter().filter_map(|&step| Some((step, score(dir, step)?))).collect()
}

fn score(dir: &RunDir, step: u64) -> Option<f64> {
    let metrics = Scores::read(&dir.scores(step)).ok()?.metrics;
    let value = RANKED_BY.into_iter().find_map(|name| metrics.get(name))?;
    // A score that was no number is written as null: the worst there is.
    Some(value.unwrap_or(f64::INFINITY))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_schema::run::write_atomically;

    use super::*;

    #[test]
    fn a_checkpoint_is_ranked_by_its_bound_and_without_one_by_its_ar_loss() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path(), "r");
        for (step, metrics) in [
            (0, r#"{"ar_loss": 1.0, "nelbo": 6.5}"#),
            (10, r#"{"ar_loss": 1.5}"#),
            (20, r#"{"nelbo": null}"#),
            (30, r#"{"pass_rate": 1.0}"#),
        ] {
            write_atomically(&dir.scores(step), format!(r#"{{"step": {step}, "metrics": {metrics}}}"#).as_bytes())
                .unwrap();
        }
        std::fs::write(dir.scores(40), "{").unwrap();
        let found = scores(&dir, &[0, 10, 20, 30, 40, 50]);
        assert_eq!(found, BTreeMap::from([(0, 6.5), (10, 1.5), (20, f64::INFINITY)]));
    }
}
