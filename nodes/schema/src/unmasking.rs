//! How a text was unmasked: part of `samples/step-N.json` of a run, written by the sampler and shown by the monitor.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Texts;

/// One token of a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unmasked {
    /// The token as text.
    pub text: String,
    /// Step of the decoder that revealed it, from 0; absent for what was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// Its probability when it was revealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f32>,
}

/// The tokens of each text of a file of samples that has them, by kind and number.
pub type Unmaskings = BTreeMap<(String, u64), Vec<Unmasked>>;

/// Reads a file of samples.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read_unmaskings(path: &Path) -> io::Result<Unmaskings> {
    let shown = Texts::read(path)?.content.samples.into_iter().filter(|text| !text.history.is_empty());
    Ok(shown.map(|text| ((text.kind, text.index), text.history)).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn texts_with_a_history_are_found_by_kind_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.json");
        let text = r#"{"step": 3, "samples": [
            {"kind": "unconditional", "index": 0, "text": "a", "history": [{"text": "a", "step": 4, "probability": 0.5}]},
            {"kind": "infill", "index": 0, "text": "b", "history": [{"text": "b"}]},
            {"kind": "infill", "index": 1, "text": "c"}]}"#;
        std::fs::write(&path, text).unwrap();
        let found = read_unmaskings(&path).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[&("unconditional".to_owned(), 0)][0].step, Some(4));
        assert_eq!(found[&("infill".to_owned(), 0)][0].step, None);
        std::fs::write(&path, "{").unwrap();
        assert!(read_unmaskings(&path).is_err());
    }
}
