//! The texts of a checkpoint: `samples/step-N.json` of the run.

use std::collections::BTreeMap;
use std::path::Path;

use difflow_schema::{Checkpoint, Metrics, Sample, Samples, Unmasked, run};
use eyre::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// Number within its kind.
    pub index: u64,
    /// `unconditional` or `infill`.
    pub kind: String,
    /// What was given.
    pub prompt: String,
    /// The whole text.
    pub text: String,
    /// `ok`, what is wrong, or empty when nobody checks.
    pub verdict: String,
    /// Forward passes it took.
    pub nfe: u64,
    /// Seconds of its batch over the batch's rows.
    pub seconds: f64,
    /// Its tokens, and when each was revealed; none for a text that was written from left to right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Unmasked>,
}

/// All texts of a checkpoint, and how they were made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Texts {
    /// Optimizer steps done.
    pub step: u64,
    /// sha256 of the checkpoint's manifest.
    pub checkpoint_sha256: String,
    /// Training tokens seen.
    pub tokens_seen: u64,
    /// The keys that decide the texts.
    pub settings: Value,
    /// Name and value; null where it was not a finite number.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// The texts.
    pub samples: Vec<Text>,
    /// Seconds it took.
    pub seconds: f64,
}

impl Texts {
    /// Texts made earlier of the same checkpoint with the same settings.
    pub fn earlier(path: &Path, checkpoint: &Checkpoint, settings: &Value) -> Option<Self> {
        let texts: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (texts.checkpoint_sha256 == checkpoint.sha256 && texts.settings == *settings).then_some(texts)
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        run::write_atomically(path, &text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The texts as a message.
    pub fn samples(&self) -> Samples {
        let sample = |text: &Text| Sample {
            step: self.step,
            index: text.index,
            kind: text.kind.clone(),
            prompt: text.prompt.clone(),
            text: text.text.clone(),
            verdict: text.verdict.clone(),
            nfe: text.nfe,
            seconds: text.seconds,
        };
        Samples(self.samples.iter().map(sample).collect())
    }

    /// The numbers as a message.
    pub fn scores(&self) -> Metrics {
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
    fn texts_are_used_again_for_the_same_checkpoint_and_settings_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples/step-1.json");
        let text = Text {
            index: 0,
            kind: "unconditional".into(),
            prompt: String::new(),
            text: "A day\n".into(),
            verdict: "ok".into(),
            nfe: 3,
            seconds: 0.1,
            history: vec![Unmasked { text: "A".into(), step: Some(1), probability: Some(0.25) }],
        };
        let texts = Texts {
            step: 1,
            checkpoint_sha256: "a".into(),
            tokens_seen: 2,
            settings: json!({"SEED": 0, "TOP_P": 0.9}),
            metrics: BTreeMap::from([("distinct_2".to_owned(), None)]),
            samples: vec![text],
            seconds: 0.5,
        };
        let checkpoint =
            |sha256: &str| Checkpoint { step: 1, path: String::new(), sha256: sha256.into(), bytes: 0, tokens_seen: 2 };
        texts.write(&path).unwrap();
        assert_eq!(Texts::earlier(&path, &checkpoint("a"), &texts.settings).as_ref(), Some(&texts));
        assert_eq!(Texts::earlier(&path, &checkpoint("b"), &texts.settings), None);
        assert_eq!(Texts::earlier(&path, &checkpoint("a"), &json!({"SEED": 1})), None);
        assert_eq!(texts.samples().0[0].text, "A day\n");
        assert!(texts.scores().0[0].value.is_nan());
    }
}
