//! Files of gaps with their answers: JSONL, one gap per line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::TextError;

/// One line. `left + answer + right` is the whole text. The answer begins with the space before its first word, so that for most
/// tokenizers the three parts have the same tokens apart as together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Number of the text that it was cut from.
    #[serde(default)]
    pub id: u64,
    /// What stands before it.
    pub left: String,
    /// What is to be found.
    pub answer: String,
    /// What stands behind it.
    pub right: String,
}

/// Reads a file of gaps. Errors if it cannot be read, or with the number of a line that is no gap.
pub fn read_gaps(path: &Path) -> Result<Vec<Gap>, TextError> {
    let unread = |source| TextError::Gaps { path: path.to_owned(), source };
    let file = File::open(path).map_err(unread)?;
    let mut gaps = Vec::new();
    for (line, text) in (1..).zip(BufReader::new(file).lines()) {
        let gap = serde_json::from_str(&text.map_err(unread)?);
        gaps.push(gap.map_err(|source| TextError::NotAGap { path: path.to_owned(), line, source })?);
    }
    Ok(gaps)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_gap_file_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gaps.jsonl");
        std::fs::write(&path, "{\"left\":\"a\",\"answer\":\" b\",\"right\":\" c\"}\n{\"id\":2}\n").unwrap();
        let message = read_gaps(&path).unwrap_err().to_string();
        assert!(message.contains("gaps.jsonl, line 2"), "{message}");
        let message = read_gaps(&dir.path().join("none")).unwrap_err().to_string();
        assert!(message.contains("none"), "{message}");
    }
}
