//! Conversations as text: by a model's chat template, or simply joined; and which parts of the text are answers.

mod generation;
mod json;
mod template;
mod tokens;

use std::ops::Range;
use std::path::PathBuf;

pub use template::ChatTemplate;
pub use tokens::{ChatTokens, ChatWords};

/// The text of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// As the model reads it.
    pub text: String,
    /// Where in it (in bytes) answers stand, with what the template ends them with; in order, none empty.
    pub answers: Vec<Range<usize>>,
}

impl Rendered {
    /// Prompt and response without a template: `separator` between the contents, the last of which is the answer.
    pub fn joined<'a>(contents: impl IntoIterator<Item = &'a str>, separator: &str) -> Self {
        let contents: Vec<&str> = contents.into_iter().collect();
        let text = contents.join(separator);
        let answer = text.len() - contents.last().map_or(0, |answer| answer.len());
        Self { answers: std::iter::once(answer..text.len()).collect(), text }
    }
}

/// Which answers of a conversation are learned, and with what in view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// Each answer, in a text that ends with it.
    Apart,
    /// All answers, in one text.
    Together,
    /// The last.
    Last,
}

/// A chat template that cannot be used, or fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("the chat template {from} cannot be read: {reason}")]
    Syntax { from: String, reason: String },
    #[error("the chat template fails: {0}")]
    Render(String),
    #[error(
        "the chat template writes what is before answer {0} (counted from 0) otherwise once the answer is there, so that nobody knows where it \
         begins; wanted: a template with {{% generation %}} around answers, or TURNS: apart for one that changes earlier turns"
    )]
    NoPrefix(usize),
    #[error("the chat template writes nothing for answer {0} (counted from 0)")]
    NoAnswer(usize),
}
