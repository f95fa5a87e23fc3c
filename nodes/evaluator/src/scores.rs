//! The scores of a checkpoint: `scores/step-N.json` of the run.

use std::collections::BTreeMap;
use std::path::Path;

use difflow_schema::{Checkpoint, Metrics, run};
use eyre::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What was measured on a checkpoint, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Optimizer steps done.
    pub step: u64,
    /// sha256 of the checkpoint's manifest.
    pub checkpoint_sha256: String,
    /// Training tokens seen.
    pub tokens_seen: u64,
    /// The keys that decide the scores.
    pub settings: Value,
    /// Documents scored.
    pub documents: usize,
    /// Documents that were longer than SEQUENCE_LENGTH and cut.
    pub documents_cut: usize,
    /// Gaps scored.
    pub gaps: usize,
    /// Name and value; null where it was not a finite number.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Seconds it took.
    pub seconds: f64,
}

impl Scores {
    /// Scores made earlier of the same checkpoint with the same settings.
    pub fn earlier(path: &Path, checkpoint: &Checkpoint, settings: &Value) -> Option<Self> {
        let scores: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (scores.checkpoint_sha256 == checkpoint.sha256 && scores.settings == *settings).then_some(scores)
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        run::write_atomically(path, &text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// As a message.
    pub fn message(&self) -> Metrics {
        let values = self.metrics.iter().map(|(name, value)| (name.as_str(), value.unwrap_or(f64::NAN)));
        Metrics::of_step(self.step, values)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scores_are_used_again_for_the_same_checkpoint_and_settings_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores/step-1.json");
        let metrics = BTreeMap::from([("nelbo".to_owned(), None), ("x".to_owned(), Some(0.1 + 0.2))]);
        let scores = Scores {
            step: 1,
            checkpoint_sha256: "a".into(),
            tokens_seen: 2,
            settings: json!({"EVAL_SEED": 0}),
            documents: 3,
            documents_cut: 0,
            gaps: 0,
            metrics,
            seconds: 0.5,
        };
        let checkpoint =
            |sha256: &str| Checkpoint { step: 1, path: String::new(), sha256: sha256.into(), bytes: 0, tokens_seen: 2 };
        assert_eq!(Scores::earlier(&path, &checkpoint("a"), &scores.settings), None);
        scores.write(&path).unwrap();
        assert_eq!(Scores::earlier(&path, &checkpoint("a"), &scores.settings).as_ref(), Some(&scores));
        assert_eq!(Scores::earlier(&path, &checkpoint("b"), &scores.settings), None);
        assert_eq!(Scores::earlier(&path, &checkpoint("a"), &json!({"EVAL_SEED": 1})), None);
        assert!(scores.message().0[0].value.is_nan());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Scores::earlier(&path, &checkpoint("a"), &scores.settings), None);
    }
}
