//! `scores/step-N.json`, `samples/step-N.json` and `measured.json` of a run: the evaluator's, the sampler's and a sweep's
//! results for a checkpoint, and how they were obtained. Every reader and writer uses these types.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Checkpoint, Metrics, Sample, Samples, Unmasked, run};

/// A file of results. Everything but the step may be absent in files of an older difflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results<C> {
    /// Optimizer steps done.
    pub step: u64,
    /// sha256 of the checkpoint's manifest.
    #[serde(default)]
    pub checkpoint_sha256: String,
    /// Training tokens seen.
    #[serde(default)]
    pub tokens_seen: u64,
    /// The keys that decide the results.
    #[serde(default)]
    pub settings: Value,
    /// Name ([`crate::measures`]) and value; null where it was not a finite number.
    #[serde(default)]
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Seconds it took.
    #[serde(default)]
    pub seconds: f64,
    /// What else was found.
    #[serde(flatten)]
    pub content: C,
}

/// `scores/step-N.json`.
pub type Scores = Results<Scored>;

/// `samples/step-N.json`.
pub type Texts = Results<Written>;

/// `measured.json`; its settings are the keys of the run that its sweep set, and the commands that measured, by name.
pub type Measurements = Results<Measured>;

/// What was measured has nothing but numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {}

/// What was scored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scored {
    /// Documents scored.
    pub documents: usize,
    /// Documents that were longer than the model's training rows and cut.
    pub documents_cut: usize,
    /// Gaps scored.
    pub gaps: usize,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Written {
    /// The texts.
    pub samples: Vec<Text>,
}

/// One text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// Number within its kind.
    pub index: u64,
    /// `unconditional` (from nothing), `answer` or `infill`.
    pub kind: String,
    /// What was given; a gap is `[…]`.
    #[serde(default)]
    pub prompt: String,
    /// The whole text.
    pub text: String,
    /// `ok`, what is wrong, or empty when nobody checks.
    #[serde(default)]
    pub verdict: String,
    /// Forward passes it took.
    #[serde(default)]
    pub nfe: u64,
    /// Seconds of its batch over the batch's rows.
    #[serde(default)]
    pub seconds: f64,
    /// Its tokens, and when each was revealed; none for a text that was written from left to right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Unmasked>,
}

impl<C: Serialize + DeserializeOwned> Results<C> {
    /// Returns the results in a file. Errors if it cannot be read, or holds no results.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Returns results made earlier of the same checkpoint with the same settings, if the file has them.
    pub fn earlier(path: &Path, checkpoint: &Checkpoint, settings: &Value) -> Option<Self> {
        let found = Self::read(path).ok()?;
        (found.checkpoint_sha256 == checkpoint.sha256 && found.settings == *settings).then_some(found)
    }

    /// Writes the file, whole or not at all. Errors if the disk refuses it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()));
        run::write_atomically(path, &text).map_err(named)
    }

    /// The numbers as a message.
    pub fn message(&self) -> Metrics {
        let values = self.metrics.iter().map(|(name, value)| (name.as_str(), value.unwrap_or(f64::NAN)));
        Metrics::of_step(self.step, values)
    }
}

impl Texts {
    /// The texts as a message.
    pub fn samples(&self) -> Samples {
        let step = self.step;
        let sample = |text: &Text| {
            let Text { index, kind, prompt, text, verdict, nfe, seconds, history: _ } = text.clone();
            Sample { step, index, kind, prompt, text, verdict, nfe, seconds }
        };
        Samples(self.content.samples.iter().map(sample).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scores() -> Scores {
        Results {
            step: 1,
            checkpoint_sha256: "a".into(),
            tokens_seen: 2,
            settings: json!({"EVAL_SEED": 0}),
            metrics: BTreeMap::from([("nelbo".to_owned(), None), ("x".to_owned(), Some(0.1 + 0.2))]),
            seconds: 0.5,
            content: Scored { documents: 3, documents_cut: 0, gaps: 0 },
        }
    }

    #[test]
    fn results_are_used_again_for_the_same_checkpoint_and_settings_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores/step-1.json");
        let scores = scores();
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

    #[test]
    fn texts_come_back_as_they_were_written_and_go_out_as_samples() {
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
        let Scores { step, checkpoint_sha256, tokens_seen, settings, metrics, seconds, .. } = scores();
        let content = Written { samples: vec![text] };
        let texts = Texts { step, checkpoint_sha256, tokens_seen, settings, metrics, seconds, content };
        texts.write(&path).unwrap();
        assert_eq!(Texts::read(&path).unwrap(), texts);
        assert_eq!((texts.samples().0[0].text.as_str(), texts.samples().0[0].step), ("A day\n", 1));
    }

    /// Both as difflow of November 2026 wrote them, word for word but for their lengths.
    #[test]
    fn files_of_an_older_difflow_are_read() {
        let scores: Scores = serde_json::from_str(
            r#"{"step": 600, "checkpoint_sha256": "ab", "tokens_seen": 1712345, "settings": {"BASE_MODEL": "data/tiny/model"},
                "documents": 128, "documents_cut": 1, "gaps": 200, "metrics": {"nelbo": 0.6, "nelbo_stderr": null}, "seconds": 9.5}"#,
        )
        .unwrap();
        assert_eq!((scores.content.documents_cut, scores.metrics["nelbo"]), (1, Some(0.6)));
        let texts: Texts = serde_json::from_str(
            r#"{"step": 600, "checkpoint_sha256": "ab", "tokens_seen": 1712345, "settings": {"SEED": 1}, "metrics": {"pass_rate": 0.5},
                "samples": [{"index": 0, "kind": "infill", "prompt": "a […]", "text": "a b", "verdict": "ok", "nfe": 1, "seconds": 0.1,
                "history": [{"text": "a"}, {"text": " b", "step": 0, "probability": 0.5}]}], "seconds": 3.0}"#,
        )
        .unwrap();
        assert_eq!(texts.content.samples[0].history.len(), 2);
    }
}
