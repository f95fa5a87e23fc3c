//! Conversations as token ids, and which of them are answers.

use std::ops::Range;

use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::Rendered;
use crate::error::TextError;

/// A tokenizer for the texts of conversations.
#[derive(Clone)]
pub struct ChatWords {
    /// Without the file's last step, which tells places of words otherwise than they are: without the space before them.
    plain: Tokenizer,
    /// As that, for texts of a chat template, whose special tokens are special.
    templated: Tokenizer,
    bos: u32,
    eos: Option<String>,
}

/// A text of a conversation as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTokens {
    /// Token ids. Without a template the token that begins a document comes first.
    pub tokens: Vec<u32>,
    /// Places of the tokens of answers, in order.
    pub answers: Vec<Range<usize>>,
    /// Whether the template itself ended the last answer with the token that ends a document.
    pub ended: bool,
}

impl ChatWords {
    /// Takes a tokenizer; `bos` begins a document and `eos` ends it.
    pub fn new(tokenizer: &Tokenizer, bos: u32, eos: u32) -> Self {
        let mut plain = tokenizer.clone();
        plain.with_post_processor(None::<PostProcessorWrapper>);
        let mut templated = plain.clone();
        templated.set_encode_special_tokens(false);
        let eos = tokenizer.id_to_token(eos);
        Self { plain, templated, bos, eos }
    }

    /// Returns the token ids of a text up to the end of its last answer; what stands behind it, nobody will have read before. In a text of a
    /// chat template (`templated`) what looks like a special token is one; in any other it stays text. Errors if the tokenizer cannot read
    /// the text, or an answer has no token.
    pub fn tokens(&self, rendered: Rendered, templated: bool) -> Result<ChatTokens, TextError> {
        let Rendered { mut text, answers } = rendered;
        let (first, end) = answers.last().map_or((0, 0), |answer| (answer.start, answer.end));
        text.truncate(end);
        // White space behind the token that ends the text: the text has ended before it.
        let trimmed = text.trim_end();
        let eos = self.eos.as_ref().is_some_and(|eos| trimmed.ends_with(eos));
        let ended = templated && trimmed.len() > first && eos;
        if ended {
            text.truncate(trimmed.len());
        }
        let (ids, places) = self.encode(&text, templated)?;
        let begin = ids.len() - places.len();
        let span = |answer: Range<usize>| {
            let inside = |place: &Range<usize>| {
                answer.contains(&place.start) || (place.start < answer.start && place.end > answer.start)
            };
            let ends = places.iter().position(inside).zip(places.iter().rposition(inside));
            ends.map(|(first, last)| begin + first..begin + last + 1).ok_or(TextError::NoToken)
        };
        let answers = answers.into_iter().map(span).collect::<Result<_, _>>()?;
        Ok(ChatTokens { tokens: ids, answers, ended })
    }

    /// Returns the token ids of a text that asks for an answer. Errors if the tokenizer cannot read it.
    pub fn prompt(&self, text: &str, templated: bool) -> Result<Vec<u32>, TextError> {
        Ok(self.encode(text, templated)?.0)
    }

    /// The token ids, and of those that are text their places in it, in bytes.
    fn encode(&self, text: &str, templated: bool) -> Result<(Vec<u32>, Vec<Range<usize>>), TextError> {
        let tokenizer = if templated { &self.templated } else { &self.plain };
        let encoding = tokenizer.encode(text, false).map_err(|e| TextError::Encode(e.to_string()))?;
        // A template writes the token that begins a document itself.
        let begin = (!templated).then_some(self.bos);
        let ids = begin.into_iter().chain(encoding.get_ids().iter().copied()).collect();
        Ok((ids, encoding.get_offsets().iter().map(|&(start, end)| start..end).collect()))
    }
}
