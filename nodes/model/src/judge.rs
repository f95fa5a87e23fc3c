//! A base model used to judge texts.

use crate::batch::MicroBatch;
use crate::error::ModelError;
use crate::model::Model;

impl Model {
    /// Perplexity of token sequences (anchor first, which is not predicted) read from left to right: exp of the mean
    /// cross-entropy a token, `rows` sequences a forward. NaN when there is nothing to predict.
    ///
    /// # Errors
    /// When a sequence does not fit the model.
    pub fn perplexity(&self, sequences: &[Vec<u32>], rows: usize) -> Result<f64, ModelError> {
        let (mut nats, mut tokens) = (0.0, 0.0);
        let mut long: Vec<Vec<u32>> = sequences.iter().filter(|sequence| sequence.len() > 1).cloned().collect();
        // Neighbours of about the same length need little padding.
        long.sort_by_key(Vec::len);
        for chunk in long.chunks(rows.max(1)) {
            for row in self.ar_sums(&MicroBatch::padded(chunk))?.rows {
                nats += row.unweighted;
                tokens += row.positions as f64;
            }
        }
        Ok((nats / tokens).exp())
    }
}
