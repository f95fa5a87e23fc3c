//! From hidden states to tokens: the output head for the requested positions, and one choice for each.

use tch::{Device, Kind, Tensor};

use crate::decode::draw::Sampling;
use crate::decode::options::Score;
use crate::error::ModelError;
use crate::host::write;
use crate::kernel::choice::{exponentials, top};
use crate::model::Model;
use crate::shim::map_rows;

/// What is asked of one hidden state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// Its row among the hidden states.
    pub row: usize,
    /// The row of the same position without the given tokens; `row` itself without guidance.
    pub unguided: usize,
    /// Number in [0, 1) that decides the draw.
    pub uniform: f64,
    /// Tokens that the repetition penalty is for.
    pub present: &'a [u32],
    /// Asks how far the distribution has moved from this one, which is empty where there was none before.
    pub before: Option<&'a [f32]>,
}

/// Rows of hidden states that one distribution is made from; the same twice without guidance.
struct Sides {
    given: usize,
    unguided: usize,
}

/// A token for a position, and how sure the model is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Choice {
    pub token: u32,
    /// Of the token, under the unfiltered softmax at temperature 1.
    pub probability: f32,
    /// Larger is surer.
    pub score: f64,
    /// Where it was asked for: the unfiltered softmax at temperature 1, and in nats how far it has moved.
    pub distribution: Vec<f32>,
    pub moved: f64,
}

impl Model {
    /// A choice for each ask, from hidden states `[n, D]` before the last norm.
    pub(crate) fn choose(
        &self,
        hidden: &Tensor,
        asks: &[Ask],
        (sampling, score, guidance): (&Sampling, Score, f64),
    ) -> Result<Vec<Choice>, ModelError> {
        let sides: Vec<Sides> = asks.iter().map(|ask| Sides { given: ask.row, unguided: ask.unguided }).collect();
        self.over_logits(hidden, &sides, guidance, |scratch, at, logits| {
            sampling.choose(logits, &asks[at], score, scratch)
        })
    }

    /// Log-probability of one token for each of the hidden states `[n, D]` before the last norm, the mask token left out.
    pub(crate) fn log_probabilities(&self, hidden: &Tensor, tokens: &[u32]) -> Result<Vec<f64>, ModelError> {
        self.over_rows(hidden, tokens.len(), |scratch, at, logits| {
            scratch.resize(logits.len(), 0.0);
            let largest = top(logits);
            let total = f64::from(exponentials(logits, largest, 1.0, scratch));
            f64::from(logits[tokens[at] as usize]) - f64::from(largest) - total.ln()
        })
    }

    /// What `read` makes of the logits of each of the hidden states `[count, D]` before the last norm; the mask token's is −∞.
    pub(crate) fn over_rows<T: Clone + Default + Send>(
        &self,
        hidden: &Tensor,
        count: usize,
        read: impl Fn(&mut Vec<f32>, usize, &mut [f32]) -> T + Sync,
    ) -> Result<Vec<T>, ModelError> {
        let rows: Vec<Sides> = (0..count).map(|row| Sides { given: row, unguided: row }).collect();
        self.over_logits(hidden, &rows, 0.0, read)
    }

    /// What `read` makes of the logits of each of `rows`, with guidance weighed against those without the given tokens. The mask
    /// token's is −∞. Logits exist for a bounded number of rows at a time, and come to the host once.
    fn over_logits<T: Clone + Default + Send>(
        &self,
        hidden: &Tensor,
        rows: &[Sides],
        guidance: f64,
        read: impl Fn(&mut Vec<f32>, usize, &mut [f32]) -> T + Sync,
    ) -> Result<Vec<T>, ModelError> {
        let vocabulary = self.config.vocab_size;
        let normed = self.decoder.normed(hidden, self.arithmetic)?;
        let logits_of = |picked: Vec<i64>| {
            let in_order = picked.iter().enumerate().all(|(at, &row)| at as i64 == row) && picked.len() == rows.len();
            let picked = if in_order && normed.size()[0] as usize == rows.len() {
                normed.shallow_clone()
            } else {
                normed.f_index_select(0, &Tensor::f_from_slice(&picked)?.f_to_device(self.device.torch())?)?
            };
            self.decoder.logits(&picked, self.arithmetic)
        };
        let mask = self.config.adapted.as_ref().map(|adapted| adapted.mask_token_id as usize);
        let chunk = (self.chunk_elements / vocabulary).max(1);
        let mut results = Vec::with_capacity(rows.len());
        for (number, part) in rows.chunks(chunk).enumerate() {
            let mut logits = logits_of(part.iter().map(|side| side.given as i64).collect())?;
            if guidance != 0.0 {
                let without = logits_of(part.iter().map(|side| side.unguided as i64).collect())?;
                logits = logits.f_mul_scalar(1.0 + guidance)?.f_sub(&without.f_mul_scalar(guidance)?)?;
            }
            let mut logits = logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
            let grain = ROW_WORK / vocabulary + 1;
            // SAFETY: no other slice of it is in use.
            let values = unsafe { write(&mut logits)? };
            results.extend(map_rows(values, vocabulary, grain, |scratch, at, logits| {
                if let Some(mask) = mask {
                    logits[mask] = f32::NEG_INFINITY;
                }
                read(scratch, number * chunk + at, logits)
            })?);
        }
        Ok(results)
    }
}

/// Logits worth a thread of their own.
const ROW_WORK: usize = 1 << 14;
