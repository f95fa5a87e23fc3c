//! From hidden states to tokens: the output head for the requested positions, and one choice for each.

use tch::{Device, Kind, Tensor};

use crate::caught::caught;
use crate::decode::draw::Sampling;
use crate::decode::options::Score;
use crate::error::ModelError;
use crate::host::write;
use crate::kernel::choice::{exponentials, top};
use crate::later::upload;
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

/// How a token is drawn, and what makes it sure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Draw {
    pub sampling: Sampling,
    pub score: Score,
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
    /// A choice for each ask, drawn as its own entry of `draws` says, from hidden states `[n, D]` before the last norm.
    pub(crate) fn choose(
        &self,
        hidden: &Tensor,
        asks: &[Ask],
        draws: &[Draw],
        guidance: f64,
    ) -> Result<Vec<Choice>, ModelError> {
        let sides: Vec<Sides> = asks.iter().map(|ask| Sides { given: ask.row, unguided: ask.unguided }).collect();
        // Where a distribution has moved is asked of the host.
        if self.device.torch() != Device::Cpu && asks.iter().all(|ask| ask.before.is_none()) {
            return caught(|| self.choose_there(hidden, asks, &sides, draws, guidance));
        }
        self.over_logits(hidden, &sides, guidance, |scratch, at, logits| {
            let Draw { sampling, score } = &draws[at];
            sampling.choose(logits, &asks[at], *score, scratch)
        })
    }

    /// As [`Model::choose`] by operations of the device: what comes back is three numbers for each ask.
    fn choose_there(
        &self,
        hidden: &Tensor,
        asks: &[Ask],
        sides: &[Sides],
        draws: &[Draw],
        guidance: f64,
    ) -> Result<Vec<Choice>, ModelError> {
        let mut choices = Vec::with_capacity(asks.len());
        let chunk = self.chunk_rows();
        let normed = self.decoder.normed(hidden, self.arithmetic)?;
        // Those that follow each other and are drawn alike are drawn at once.
        for alike in draws.chunk_by(PartialEq::eq) {
            let from = choices.len();
            let (asks, sides) = (&asks[from..from + alike.len()], &sides[from..from + alike.len()]);
            let Draw { sampling, score } = &alike[0];
            for (asks, sides) in asks.chunks(chunk).zip(sides.chunks(chunk)) {
                choices.extend(sampling.choose_there(&self.logits_of(&normed, sides, guidance)?, asks, *score)?);
            }
        }
        Ok(choices)
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
        let normed = caught(|| self.decoder.normed(hidden, self.arithmetic))?;
        let chunk = self.chunk_rows();
        let mut results = Vec::with_capacity(rows.len());
        for (number, part) in rows.chunks(chunk).enumerate() {
            let logits = caught(|| self.logits_of(&normed, part, guidance))?;
            let mut logits = logits.f_to_device(Device::Cpu)?.f_contiguous()?;
            let grain = ROW_WORK / vocabulary + 1;
            // SAFETY: no other slice of it is in use.
            let values = unsafe { write(&mut logits)? };
            results.extend(map_rows(values, vocabulary, grain, |scratch, at, logits| {
                read(scratch, number * chunk + at, logits)
            })?);
        }
        Ok(results)
    }

    /// Rows whose logits exist at once.
    fn chunk_rows(&self) -> usize {
        (self.chunk_elements / self.config.vocab_size).max(1)
    }

    /// Logits `[n, V]`, fp32, of some rows of normed states `[N, D]`; the mask token's are −∞.
    fn logits_of(&self, normed: &Tensor, rows: &[Sides], guidance: f64) -> Result<Tensor, ModelError> {
        let side = |row: &dyn Fn(&Sides) -> usize| -> Result<Tensor, ModelError> {
            let picked: Vec<i64> = rows.iter().map(|side| row(side) as i64).collect();
            let all = picked.iter().copied().eq(0..normed.size()[0]);
            let picked = if all {
                normed.shallow_clone()
            } else {
                normed.f_index_select(0, &upload(&picked, self.device.torch())?)?
            };
            self.decoder.logits(&picked, self.arithmetic)
        };
        let mut logits = side(&|side| side.given)?;
        if guidance != 0.0 {
            let without = side(&|side| side.unguided)?;
            logits = logits.f_mul_scalar(1.0 + guidance)?.f_sub(&without.f_mul_scalar(guidance)?)?;
        }
        let logits = logits.f_to_kind(Kind::Float)?;
        if let Some(adapted) = &self.config.adapted {
            let _ = logits.f_narrow(1, i64::from(adapted.mask_token_id), 1)?.f_fill_(f64::NEG_INFINITY)?;
        }
        Ok(logits)
    }
}

/// Logits worth a thread of their own.
const ROW_WORK: usize = 1 << 14;
