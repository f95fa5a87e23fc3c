//! Everything that can be wrong between text and token ids.

/// A file or a name that a person gave and that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: found `{found}`; {allowed}")]
pub struct Unfit {
    /// The configuration key that holds it: TOKENIZER, BOS_TOKEN or EOS_TOKEN.
    pub key: &'static str,
    /// What was found there.
    pub found: String,
    /// What is allowed, or what to do.
    pub allowed: String,
}

impl Unfit {
    pub(crate) fn new(key: &'static str, found: &str, allowed: String) -> Self {
        Self { key, found: found.to_owned(), allowed }
    }
}

/// A text or token ids that the tokenizer refuses.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tokenizer cannot read a text.
    #[error("cannot tokenize a text: {0}")]
    Encode(String),
    /// The tokenizer cannot write token ids as text.
    #[error("cannot turn tokens into text: {0}")]
    Decode(String),
}

/// A gap that is written wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found `{found}`; a gap is [MASK] (length searched), [MASK:5] or [MASK:2..6] (tokens)")]
pub struct GapError {
    /// The gap as it was written.
    pub found: String,
}
