//! Everything that can go wrong between text and token ids.

use std::path::PathBuf;

/// A tokenizer, a file of gaps, a text or token ids that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file of a tokenizer is none.
    #[error("{}: not a readable tokenizer.json: {reason}", path.display())]
    Tokenizer { path: PathBuf, reason: String },
    /// The tokenizer has ids that a model has no row for.
    #[error("{}: its ids go up to {largest}, the model has {rows} rows; give the model's own tokenizer.json", path.display())]
    Rows { path: PathBuf, largest: usize, rows: usize },
    /// Two tokenizers give one token two ids.
    #[error("{}: `{token}` has another id than in {}; wanted: a model with the same tokenizer", path.display(), other.display())]
    Differ { path: PathBuf, other: PathBuf, token: String },
    /// The tokenizer cannot read a text.
    #[error("cannot tokenize a text: {0}")]
    Encode(String),
    /// An answer of a conversation has no token.
    #[error("an answer has no token in this tokenizer")]
    NoToken,
    /// The tokenizer cannot write token ids as text.
    #[error("cannot turn tokens into text: {0}")]
    Decode(String),
    /// A file of gaps cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Gaps { path: PathBuf, source: std::io::Error },
    /// A line of it is no gap.
    #[error("{}, line {line}: not a gap ({source}); each line is an object with left, answer, right", path.display())]
    NotAGap { path: PathBuf, line: usize, source: serde_json::Error },
}

/// A gap that is written wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found `{found}`; a gap is [MASK] (length searched), [MASK:5] or [MASK:2..6] (tokens)")]
pub struct GapError {
    /// The gap as it was written.
    pub found: String,
}
