//! The canvas: clean tokens that never change, and masked positions to be filled.

use crate::error::ModelError;

/// One sequence to be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    /// Token ids; what stands at a masked position is ignored.
    pub tokens: Vec<u32>,
    /// Positions to fill, in any pattern. Position 0 is the anchor (BOS or EOS) and stays clean.
    pub masked: Vec<bool>,
    /// Key of this sequence's random numbers: the same key, seed and canvas give the same text in any batch.
    pub key: u64,
}

impl Canvas {
    /// An anchor followed by `length` masked positions.
    pub fn unconditional(anchor: u32, length: usize, key: u64) -> Self {
        Self::continuation(&[anchor], length, key)
    }

    /// A prefix (with its anchor first) followed by `length` masked positions.
    pub fn continuation(prefix: &[u32], length: usize, key: u64) -> Self {
        let mut tokens = prefix.to_vec();
        tokens.resize(prefix.len() + length, 0);
        let masked = (0..tokens.len()).map(|i| i >= prefix.len()).collect();
        Self { tokens, masked, key }
    }

    pub(crate) fn check(&self, vocab_size: usize, longest: Option<usize>) -> Result<(), ModelError> {
        let length = self.tokens.len();
        let input = |what: &str, found: String, wanted: String| Err(ModelError::input(what, found, wanted));
        if length == 0 || self.masked.len() != length {
            let found = format!("{length} tokens and {} marks", self.masked.len());
            return input("canvas", found, "an anchor, and as many marks as tokens".to_owned());
        }
        if self.masked[0] {
            return input(
                "canvas",
                "a masked position 0".to_owned(),
                "an anchor (BOS or EOS) at position 0".to_owned(),
            );
        }
        if let Some(longest) = longest.filter(|&longest| length > longest) {
            return input(
                "length of the canvas",
                length.to_string(),
                format!("at most {longest}, the model's learned positions"),
            );
        }
        let wrong = (0..length).find(|&i| !self.masked[i] && self.tokens[i] as usize >= vocab_size);
        if let Some(at) = wrong {
            let wanted = format!("an id below the vocabulary's {vocab_size}");
            return input(&format!("token at position {at} of the canvas"), self.tokens[at].to_string(), wanted);
        }
        Ok(())
    }
}

/// One position becoming known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reveal {
    /// Step of the decoder, from 0.
    pub step: u32,
    pub position: u32,
    pub token: u32,
    /// Of the token, under the unfiltered softmax at temperature 1.
    pub probability: f32,
}

/// A filled canvas.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded {
    /// All tokens; shorter than the canvas when a stop token ended it.
    pub tokens: Vec<u32>,
    /// Network function evaluations: forwards that this sequence took part in, two a step with guidance.
    pub nfe: u32,
    /// What was revealed when, in order.
    pub history: Vec<Reveal>,
    /// True when a stop token ended it.
    pub stopped: bool,
}
