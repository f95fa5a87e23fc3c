//! From hidden states to tokens: the output head for the positions that are asked for, and one choice each.

use tch::{Device, Kind, Tensor};

use crate::decode::draw::Sampling;
use crate::decode::options::Score;
use crate::error::ModelError;
use crate::host::write;
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
}

/// A token for a position, and how sure the model is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Choice {
    pub token: u32,
    /// Of the token, under the unfiltered softmax at temperature 1.
    pub probability: f32,
    /// Larger is surer.
    pub score: f64,
}

impl Model {
    /// A choice for each ask, from hidden states `[n, D]` before the last norm. Logits exist for a bounded number of asks at a
    /// time, and come to the host once.
    pub(crate) fn choose(
        &self,
        hidden: &Tensor,
        asks: &[Ask],
        (sampling, score, guidance): (&Sampling, Score, f64),
    ) -> Result<Vec<Choice>, ModelError> {
        let vocabulary = self.config.vocab_size;
        let normed = self.decoder.normed(hidden, self.arithmetic)?;
        let logits_of = |rows: Vec<i64>| {
            let in_order = rows.iter().enumerate().all(|(at, &row)| at as i64 == row) && rows.len() == asks.len();
            let picked = match in_order && normed.size()[0] as usize == asks.len() {
                true => normed.shallow_clone(),
                false => normed.f_index_select(0, &Tensor::f_from_slice(&rows)?.f_to_device(self.device.torch())?)?,
            };
            self.decoder.logits(&picked, self.arithmetic)
        };
        let mask = self.config.adapted.as_ref().map(|adapted| adapted.mask_token_id as usize);
        let mut choices = Vec::with_capacity(asks.len());
        for chunk in asks.chunks((self.chunk_elements / vocabulary).max(1)) {
            let mut logits = logits_of(chunk.iter().map(|ask| ask.row as i64).collect())?;
            if guidance != 0.0 {
                let without = logits_of(chunk.iter().map(|ask| ask.unguided as i64).collect())?;
                logits = logits.f_mul_scalar(1.0 + guidance)?.f_sub(&without.f_mul_scalar(guidance)?)?;
            }
            let mut logits = logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
            let grain = ROW_WORK / vocabulary + 1;
            // SAFETY: made here; nothing else has it.
            let values = unsafe { write(&mut logits)? };
            choices.extend(map_rows(values, vocabulary, grain, |scratch, number, logits| {
                if let Some(mask) = mask {
                    logits[mask] = f32::NEG_INFINITY;
                }
                sampling.choose(logits, &chunk[number], score, scratch)
            })?);
        }
        Ok(choices)
    }
}

/// Logits worth a thread of their own.
const ROW_WORK: usize = 1 << 14;
