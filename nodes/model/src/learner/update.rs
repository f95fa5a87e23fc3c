//! An update by operations of the device, without waiting for it, and what it measured.

use tch::{Kind, Tensor};

use crate::device::Device;
use crate::error::ModelError;
use crate::later::{Later, upload};
use crate::learner::{Applied, Learner};
use crate::loss::Losses;
use crate::many::{self, Rate};
use crate::reducer::Share;
use crate::totals::Totals;

/// An update that the device may still be working on.
#[derive(Debug)]
pub struct Unread(pub(super) Update);

impl Unread {
    /// Positions of its batches that are not padding.
    pub fn tokens(&self) -> u64 {
        match &self.0 {
            Update::Done(Applied { totals, .. }) | Update::There { totals, .. } => totals.tokens,
        }
    }
}

#[derive(Debug)]
pub(super) enum Update {
    /// It is done.
    Done(Applied),
    /// The losses of its micro-steps that `totals` has not, and before their values in `left` the gradient's norm.
    There { totals: Totals, losses: Vec<Losses>, clip: Option<f64>, left: Later },
}

/// What PyTorch's clip_grad_norm_ adds to the norm.
pub(super) const CLIP_EPS: f64 = 1e-6;

impl Learner {
    /// The same arithmetic by operations of the device, which also decides whether the numbers are finite.
    pub(super) fn start_on_device(
        &mut self,
        lr: f64,
        totals: Totals,
        factor: f64,
        losses: Vec<Losses>,
        share: Option<Share>,
    ) -> Result<Unread, ModelError> {
        let device = self.model.device.torch();
        self.optimizer.begin_on_device(device)?;
        let rates = upload(&[factor, 1.0 / factor, lr], device)?;
        let mut values: Vec<&Tensor> = losses.iter().flat_map(Losses::there).collect();
        // Where ranks have told each other their losses, they are in the totals.
        let told = upload(&[if totals.is_finite() { 0f32 } else { f32::NAN }], device)?;
        if values.is_empty() {
            values.push(&told);
        }
        let left = self.update_on_device(&values, &rates, lr, share.as_ref())?;
        let clip = self.optimizer.settings.adamw.clip;
        Ok(Unread(Update::There { totals, losses, clip, left: Later::start(&left)? }))
    }

    /// All of an update but what the host does: `values` are the losses of the micro-steps, `rates`, f64 on the device, what the gradients
    /// are multiplied by, one through that, and the learning rate. Of several ranks each has its share. Returns what is read back: the
    /// gradient's norm, and the losses.
    pub(super) fn update_on_device(
        &mut self,
        values: &[&Tensor],
        rates: &Tensor,
        lr: f64,
        share: Option<&Share>,
    ) -> Result<Tensor, ModelError> {
        let norm = match share {
            Some(share) => upload(&[share.norm], self.model.device.torch())?.f_view(())?,
            None => {
                let gradients = self.model.parameters.iter().map(|parameter| parameter.tensor.f_grad());
                let gradients = gradients.collect::<Result<Vec<_>, _>>()?;
                many::norm(&gradients.into_iter().filter(Tensor::defined).collect::<Vec<_>>())?
            }
        };
        let rate = |number: i64| rates.f_select(0, number);
        let norm = norm.f_mul(&rate(0)?)?;
        let values = Tensor::f_cat(values, 0)?.f_to_kind(Kind::Double)?;
        // Not a number as soon as one of them is none, or infinite.
        let sound = values.f_sum(Kind::Double)?.f_mul_scalar(0.0)?.f_add(&norm)?.f_isfinite()?;
        let clip = self.optimizer.settings.adamw.clip;
        let clipping = match clip {
            Some(clip) => norm.f_add_scalar(CLIP_EPS)?.f_mul_scalar(1.0 / clip)?.f_clamp_min(1.0)?,
            None => norm.f_ones_like()?,
        };
        let skip = sound.f_logical_not()?.f_to_kind(Kind::Float)?;
        let divisor = clipping.f_mul(&rate(1)?)?.f_to_kind(Kind::Float)?;
        let lr = match self.model.device {
            Device::Cpu => Rate::Here(lr),
            Device::Cuda(_) => Rate::There(rate(2)?.f_to_kind(Kind::Float)?),
        };
        let gradients = share.map(|share| share.gradients.as_slice());
        self.optimizer.update_on_device(&self.model.parameters, &lr, &divisor, &skip, gradients)?;
        self.reducer.spread(&mut self.model.parameters)?;
        if let Some(average) = &mut self.average {
            average.add_unless(&skip, &self.model.parameters)?;
        }
        self.round_again()?;
        self.clear_gradients()?;
        Ok(Tensor::f_cat(&[norm.f_view(1)?, values], 0)?)
    }

    /// Copies the masters over the rounded weights, where those are kept.
    pub(super) fn round_again(&mut self) -> Result<(), ModelError> {
        let Some(decoder) = self.model.decoder.own() else { return Ok(()) };
        let (rounded, masters) = decoder.rounded()?;
        if rounded.is_empty() { Ok(()) } else { many::copy_all(&rounded, &masters) }
    }

    /// What an update did. Waits until the device has done it.
    pub fn read(&mut self, unread: Unread) -> Result<Applied, ModelError> {
        let (mut totals, losses, clip, left) = match unread.0 {
            Update::Done(applied) => return Ok(applied),
            Update::There { totals, losses, clip, left } => (totals, losses, clip, left),
        };
        let left = left.read()?;
        let (grad_norm, mut values) = (left[0], &left[1..]);
        let mut finite = grad_norm.is_finite() && totals.is_finite();
        for losses in losses {
            let own: usize = losses.there().map(Tensor::numel).sum();
            let (these, rest) = values.split_at(own);
            values = rest;
            let sums = losses.sums(&these.iter().map(|&loss| loss as f32).collect::<Vec<_>>());
            finite &= sums.is_finite();
            totals.add_losses(&sums);
        }
        if !finite {
            self.optimizer.step -= 1;
        }
        let clipped = finite && clip.is_some_and(|clip| grad_norm > clip);
        Ok(Applied { totals, grad_norm, clipped, updated: finite, finite })
    }
}
