//! The input of a forward: rows of token ids, and the position of each token.

use crate::batch::{MicroBatch, PADDING};
use crate::pattern::Pattern;

/// How often a row's text stands in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Copies {
    /// Once.
    #[default]
    One,
    /// Twice, the noised text before the clean one: `[x_t ; x_0]`. Both have the positions 0..L.
    NoisedAndClean,
}

impl Copies {
    /// How many.
    pub fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::NoisedAndClean => 2,
        }
    }
}

/// Where the tokens of a forward stand. Nothing here says what is predicted: the rows of the hidden states that meet the output
/// head, and their targets, are a [`crate::objective::Selection`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout<'a> {
    pub rows: usize,
    /// Tokens of a row's text, L. A row of the input has `copies` times as many.
    pub text: usize,
    pub copies: Copies,
    /// Document of each token of the texts, `[rows · L]`; `None` when attention crosses documents.
    pub documents: Option<&'a [u32]>,
}

impl Layout<'_> {
    /// One row, one document, one copy.
    pub fn row(text: usize) -> Self {
        Self { rows: 1, text, copies: Copies::One, documents: None }
    }

    /// Tokens of a row of the input.
    pub fn length(&self) -> usize {
        self.text * self.copies.count()
    }

    /// Position id of each token of a row of the input; `None` where they are 0, 1, 2, …
    pub fn positions(&self) -> Option<Vec<u32>> {
        match self.copies {
            Copies::One => None,
            Copies::NoisedAndClean => Some((0..2).flat_map(|_| 0..self.text as u32).collect()),
        }
    }
}

/// Token ids and their layout.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub layout: Layout<'a>,
    /// `[rows · length]`.
    pub tokens: Vec<u32>,
}

impl<'a> Input<'a> {
    /// What a pattern wants to read of a batch whose noised tokens are `noised`.
    pub fn new(batch: &'a MicroBatch, noised: Vec<u32>, pattern: &Pattern, document_attention: bool) -> Self {
        let (copies, documents) = (pattern.copies(), document_attention.then_some(batch.documents.as_slice()));
        let tokens = match copies {
            Copies::One => noised,
            Copies::NoisedAndClean => {
                let texts = noised.chunks(batch.length.max(1)).zip(batch.tokens.chunks(batch.length.max(1)));
                texts.flat_map(|(noised, clean)| noised.iter().chain(clean).copied()).collect()
            }
        };
        Self { layout: Layout { rows: batch.rows, text: batch.length, copies, documents }, tokens }
    }
}

/// Which tokens of an input that is made of a batch are not its padding.
pub(crate) fn real(batch: &MicroBatch, copies: Copies) -> Vec<bool> {
    let rows = batch.documents.chunks(batch.length.max(1));
    rows.flat_map(|row| std::iter::repeat_n(row, copies.count()))
        .flatten()
        .map(|document| *document != PADDING)
        .collect()
}
