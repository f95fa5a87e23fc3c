//! One micro-batch as plain memory, so that callers never use torch directly.

use crate::error::ModelError;

/// Document id of padding.
pub const PADDING: u32 = u32::MAX;

/// `rows` sequences of `length` tokens, all arrays row-major `[rows · length]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MicroBatch {
    pub rows: usize,
    pub length: usize,
    /// x0: the clean token ids.
    pub tokens: Vec<u32>,
    /// Positions that the noiser masked in xt. All false for the AR objective.
    pub masked: Vec<bool>,
    /// Positions that could have been masked: the denominator of the per-token bound.
    pub maskable: Vec<bool>,
    /// Document of each position, [`PADDING`] for padding.
    pub documents: Vec<u32>,
    /// Loss weight w(t) of each row, `[rows]`, or of each position, `[rows · length]`.
    pub weights: Vec<f64>,
    /// For block diffusion: positions of a block of each row, `[rows]`; the length or more for a row that is not cut. Empty: all rows
    /// have the blocks of the objective.
    pub blocks: Vec<usize>,
}

impl MicroBatch {
    /// A clean batch of one document a row: nothing masked, everything but position 0 maskable, weight 1.
    pub fn clean(rows: usize, length: usize, tokens: Vec<u32>) -> Self {
        let n = rows * length;
        Self {
            rows,
            length,
            tokens,
            masked: vec![false; n],
            maskable: (0..n).map(|i| i % length.max(1) != 0).collect(),
            documents: vec![0; n],
            weights: vec![1.0; rows],
            blocks: Vec::new(),
        }
    }

    /// Rows of different lengths, padded on the right.
    pub fn padded(sequences: &[Vec<u32>]) -> Self {
        let (rows, length) = (sequences.len(), sequences.iter().map(Vec::len).max().unwrap_or(0));
        let mut batch = Self::clean(rows, length, vec![0; rows * length]);
        for (row, sequence) in sequences.iter().enumerate() {
            let at = row * length;
            batch.tokens[at..at + sequence.len()].copy_from_slice(sequence);
            batch.documents[at + sequence.len()..at + length].fill(PADDING);
            batch.maskable[at + sequence.len()..at + length].fill(false);
        }
        batch
    }

    /// Rows `from..to` as a batch of their own.
    pub fn rows(&self, from: usize, to: usize) -> Self {
        self.only(&(from..to).collect::<Vec<_>>())
    }

    /// Some rows as a batch of their own.
    pub(crate) fn only(&self, rows: &[usize]) -> Self {
        Self {
            rows: rows.len(),
            length: self.length,
            tokens: chosen(&self.tokens, self.length, rows),
            masked: chosen(&self.masked, self.length, rows),
            maskable: chosen(&self.maskable, self.length, rows),
            documents: chosen(&self.documents, self.length, rows),
            weights: chosen(&self.weights, self.weights_a_row(), rows),
            blocks: if self.blocks.is_empty() { Vec::new() } else { chosen(&self.blocks, 1, rows) },
        }
    }

    /// 1, or the length where each position has a weight of its own.
    fn weights_a_row(&self) -> usize {
        self.weights.len() / self.rows.max(1)
    }

    /// Loss weight of a position of the batch.
    pub(crate) fn weight(&self, at: usize) -> f64 {
        if self.weights.len() == self.rows { self.weights[at / self.length] } else { self.weights[at] }
    }

    /// Whether a position is one of a prompt: neither maskable nor the first of its document or piece.
    pub(crate) fn is_prompt(&self, at: usize) -> bool {
        let first = at.is_multiple_of(self.length) || self.documents[at - 1] != self.documents[at];
        !self.maskable[at] && !first
    }

    /// Number of maskable positions.
    pub fn maskable_tokens(&self) -> u64 {
        self.maskable.iter().filter(|&&m| m).count() as u64
    }

    /// Number of positions that are not padding.
    pub(crate) fn tokens_read(&self) -> u64 {
        self.documents.iter().filter(|&&document| document != PADDING).count() as u64
    }

    /// Sizes that agree, ids inside the vocabulary, weights that are finite.
    pub(crate) fn check(&self, vocab_size: usize, longest: Option<usize>) -> Result<(), ModelError> {
        let n = self.rows * self.length;
        if n == 0 {
            return Err(ModelError::input("micro-batch", "no tokens", "at least one row of one token"));
        }
        for (what, found, wanted) in [
            ("tokens of the micro-batch", self.tokens.len(), n),
            ("masked of the micro-batch", self.masked.len(), n),
            ("maskable of the micro-batch", self.maskable.len(), n),
            ("documents of the micro-batch", self.documents.len(), n),
        ] {
            if found != wanted {
                return Err(ModelError::input(what, found, wanted));
            }
        }
        if ![self.rows, n].contains(&self.weights.len()) {
            let wanted = format!("{}, one a row, or {n}, one a position", self.rows);
            return Err(ModelError::input("weights of the micro-batch", self.weights.len(), wanted));
        }
        if ![0, self.rows].contains(&self.blocks.len()) || self.blocks.contains(&0) {
            let wanted = format!("none, or {} block sizes of 1 or more", self.rows);
            return Err(ModelError::input("blocks of the micro-batch", format!("{:?}", self.blocks), wanted));
        }
        if let Some(longest) = longest.filter(|&longest| self.length > longest) {
            let wanted = format!("at most {longest}, the model's learned positions");
            return Err(ModelError::input("sequence length", self.length, wanted));
        }
        if let Some(at) = self.tokens.iter().position(|&id| id as usize >= vocab_size) {
            let what = format!("token of row {}, position {}", at / self.length, at % self.length);
            return Err(ModelError::input(what, self.tokens[at], format!("an id below the vocabulary's {vocab_size}")));
        }
        if let Some(at) = self.weights.iter().position(|w| !w.is_finite()) {
            let what = format!("loss weight of row {}", at / self.weights_a_row());
            return Err(ModelError::input(what, self.weights[at], "a finite number"));
        }
        Ok(())
    }
}

/// Rows of `each` values.
fn chosen<T: Copy>(values: &[T], each: usize, rows: &[usize]) -> Vec<T> {
    rows.iter().flat_map(|row| values[row * each..(row + 1) * each].iter().copied()).collect()
}
