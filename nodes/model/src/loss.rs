//! Forward passes that return sums of cross-entropy, with or without gradients.
//!
//! Only positions that carry loss reach the output head, in chunks, so the logits of a whole batch are never in
//! memory at once. When a batch needs several chunks, each chunk's gradient is computed immediately and propagated
//! through the selected hidden states.

use tch::{Kind, Reduction, Tensor};

use crate::arithmetic::Arithmetic;
use crate::attention::Attention;
use crate::batch::MicroBatch;
use crate::error::ModelError;
use crate::fused;
use crate::host::copied;
use crate::input::Input;
use crate::model::Model;
use crate::objective::{Objective, ObjectiveOptions, Selection, noised, select};
use crate::pattern::Pattern;

/// What the gradients of a micro-step are divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Divisor {
    Number(f64),
    /// The positions of the micro-batch that carry loss.
    Positions,
}

/// Logits held at once, in elements: 64 MiB of fp32.
pub(crate) const CHUNK_ELEMENTS: usize = 1 << 24;

/// Sums over one micro-batch, in nats. Divide by a number of tokens of the caller's choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepSums {
    /// Σ loss weight · cross-entropy.
    pub weighted: f64,
    /// Σ cross-entropy.
    pub unweighted: f64,
    /// Positions that carried loss.
    pub positions: u64,
    /// Maskable positions of the batch.
    pub maskable: u64,
    /// The same for each sequence.
    pub rows: Vec<RowSums>,
}

/// Sums over one sequence, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowSums {
    pub weighted: f64,
    pub unweighted: f64,
    pub positions: u64,
    pub maskable: u64,
}

impl StepSums {
    /// False when a cross-entropy was NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.weighted.is_finite() && self.unweighted.is_finite()
    }

    fn new(batch: &MicroBatch, selection: &Selection, losses: &[f32]) -> Self {
        let mut rows = vec![RowSums::default(); batch.rows];
        for (row, maskable) in rows.iter_mut().zip(batch.maskable.chunks(batch.length)) {
            row.maskable = maskable.iter().filter(|&&m| m).count() as u64;
        }
        // f64 and in row-major order: the same losses give the same sums.
        for ((&row, &weight), &loss) in selection.row.iter().zip(&selection.weight).zip(losses) {
            rows[row].weighted += weight * f64::from(loss);
            rows[row].unweighted += f64::from(loss);
            rows[row].positions += 1;
        }
        let mut sums = Self { rows, ..Self::default() };
        for row in &sums.rows {
            sums.weighted += row.weighted;
            sums.unweighted += row.unweighted;
            sums.positions += row.positions;
            sums.maskable += row.maskable;
        }
        sums
    }
}

impl Model {
    /// Diffusion loss sums of a noised batch, without gradients. `maskable` tokens of the batch are the denominator that makes
    /// `weighted` the NELBO in nats a token.
    pub fn nelbo_sums(
        &self,
        batch: &MicroBatch,
        pattern: &Pattern,
        options: ObjectiveOptions,
    ) -> Result<StepSums, ModelError> {
        tch::no_grad(|| self.sums(batch, pattern, options, self.arithmetic, None))
    }

    /// Next-token loss sums under causal attention, without gradients; each document is read alone.
    pub fn ar_sums(&self, batch: &MicroBatch) -> Result<StepSums, ModelError> {
        let options = ObjectiveOptions::recommended(Objective::Ar);
        tch::no_grad(|| self.sums(batch, &Pattern::Causal, options, self.arithmetic, None))
    }

    /// Sums of one micro-batch; with a divisor, gradients of weighted sum / divisor are added to the parameters'.
    pub(crate) fn sums(
        &self,
        batch: &MicroBatch,
        pattern: &Pattern,
        options: ObjectiveOptions,
        how: Arithmetic,
        backward: Option<Divisor>,
    ) -> Result<StepSums, ModelError> {
        batch.check(self.config.vocab_size, self.longest())?;
        let mask = self.config.adapted.as_ref().map(|a| a.mask_token_id);
        let xt = noised(batch, options.objective, mask)?;
        let selection = select(batch, &xt, options, mask);
        let divisor = backward.map(|divisor| match divisor {
            Divisor::Number(number) => number,
            Divisor::Positions => selection.target.len().max(1) as f64,
        });
        if selection.target.is_empty() {
            return Ok(StepSums::new(batch, &selection, &[]));
        }
        let input = Input::new(batch, xt, pattern, options.document_attention);
        let hidden = self.hidden(&input, pattern, how, backward.is_some())?;
        let index = selection.places(&input.layout)?;
        let index = Tensor::f_from_slice(&index)?.f_to_device(self.device.torch())?;
        let losses = self.head_losses(&hidden.f_index_select(0, &index)?, &selection, divisor, how)?;
        Ok(StepSums::new(batch, &selection, &losses))
    }

    /// Hidden states before the last norm, `[B·L, D]`, of an input.
    fn hidden(&self, input: &Input, pattern: &Pattern, how: Arithmetic, train: bool) -> Result<Tensor, ModelError> {
        let attention = Attention::new(pattern, input.layout, &self.windows(), self.decoder.target(how))?;
        self.decoder.hidden(&self.ids(&input.tokens, input.layout.rows)?, &attention, how, train)
    }

    /// Cross-entropy of each selected position, in nats.
    fn head_losses(
        &self,
        rows: &Tensor,
        selection: &Selection,
        divisor: Option<f64>,
        how: Arithmetic,
    ) -> Result<Vec<f32>, ModelError> {
        let count = selection.target.len();
        let chunk = (self.chunk_elements / self.config.vocab_size).clamp(1, count);
        let scale: Option<Vec<f32>> =
            divisor.map(|divisor| selection.weight.iter().map(|w| (w / divisor) as f32).collect());
        if let Some(decoder) = self.decoder.own().filter(|_| how.kernels) {
            let (normed, head) = (decoder.normed(rows, how)?, decoder.head_weight());
            let (total, losses) =
                fused::head_loss(&normed, head, &selection.target, scale.as_deref(), (chunk, how.kind()))?;
            if scale.is_some() {
                total.f_backward()?;
            }
            return Ok(losses);
        }
        let device = self.device.torch();
        let target = Tensor::f_from_slice(&selection.target)?.f_to_device(device)?;
        let scale = scale.map(|scale| Tensor::f_from_slice(&scale)?.f_to_device(device)).transpose()?;
        // With several chunks the gradient stops at a leaf, and goes on in one piece when the last chunk is done.
        let several = scale.is_some() && chunk < count;
        let leaf = if several { rows.f_detach()?.f_set_requires_grad(true)? } else { rows.shallow_clone() };
        let mut losses = Vec::with_capacity(count);
        for start in (0..count).step_by(chunk) {
            let (start, length) = (start as i64, chunk.min(count - start) as i64);
            let logits = self.decoder.logits(&self.decoder.normed(&leaf.f_narrow(0, start, length)?, how)?, how)?;
            let target = target.f_narrow(0, start, length)?;
            let loss = logits.f_cross_entropy_loss(&target, None::<Tensor>, Reduction::None, -100, 0.0)?;
            losses.extend(copied(&loss)?);
            if let Some(scale) = &scale {
                loss.f_mul(&scale.f_narrow(0, start, length)?)?.f_sum(Kind::Float)?.f_backward()?;
            }
        }
        if several {
            rows.f_mul(&leaf.f_grad()?)?.f_sum(Kind::Float)?.f_backward()?;
        }
        Ok(losses)
    }
}
