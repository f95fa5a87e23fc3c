//! AdamW (arXiv 1711.05101) on fp32 master weights.
//!
//! On the CPU, one pass over a parameter reads the gradient once and writes the weight and both moments; clipping is
//! a factor in that pass. Every element is computed independently, so the number of threads does not change the bits.

use tch::Tensor;

use crate::error::ModelError;
use crate::host::{values, values_mut};
use crate::optimizer::state::{Noise, fp32, store};

/// Settings of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled decay of matrices; norms and biases are left alone.
    pub weight_decay: f64,
    /// Largest global gradient norm; larger gradients are scaled down to it. `None` does not clip.
    pub clip: Option<f64>,
}

impl Default for AdamW {
    /// The paper's DiffuGPT settings.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, clip: Some(1.0) }
    }
}

/// The numbers of one parameter's update.
#[derive(Clone, Copy)]
pub(super) struct Rate {
    pub settings: AdamW,
    /// What the weight is multiplied by: 1 − lr · weight decay.
    pub decay: f64,
    /// lr / (1 − β₁ᵗ)
    pub step: f64,
    /// 1 / √(1 − β₂ᵗ)
    pub root: f64,
    /// What the gradient is multiplied by.
    pub scale: f64,
}

impl Rate {
    /// Updates the weight and both moments.
    pub fn apply(
        self,
        weight: &mut Tensor,
        grad: &Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        noise: Noise,
    ) -> Result<(), ModelError> {
        // SAFETY: three tensors with memory of their own, of which no other slice is in use during an update.
        let (to, m_to, v_to) = unsafe { (values_mut(weight), values_mut(m), values_mut(v)) };
        match (values(grad), to, m_to, v_to) {
            (Some(grad), Some(weight), Some(m), Some(v)) => self.host(weight, grad, m, v),
            _ => self.device(weight, grad, m, v, noise)?,
        }
        Ok(())
    }

    fn host(self, weight: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
        // Below this many values a thread costs more than it saves.
        let share = weight.len().div_ceil(crate::device::num_threads()).max(1 << 18);
        std::thread::scope(|scope| {
            let parts =
                weight.chunks_mut(share).zip(grad.chunks(share)).zip(m.chunks_mut(share).zip(v.chunks_mut(share)));
            let mut parts: Vec<_> = parts.collect();
            let last = parts.pop();
            for ((weight, grad), (m, v)) in parts {
                scope.spawn(move || self.slice(weight, grad, m, v));
            }
            if let Some(((weight, grad), (m, v))) = last {
                self.slice(weight, grad, m, v);
            }
        });
    }

    fn slice(self, weight: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
        let (b1, b2, eps) = (self.settings.beta1 as f32, self.settings.beta2 as f32, self.settings.eps as f32);
        let (keep1, keep2) = ((1.0 - self.settings.beta1) as f32, (1.0 - self.settings.beta2) as f32);
        let (decay, step, root, scale) = (self.decay as f32, self.step as f32, self.root as f32, self.scale as f32);
        for (((w, &g), m), v) in weight.iter_mut().zip(grad).zip(m).zip(v) {
            let g = g * scale;
            *m = b1 * *m + keep1 * g;
            *v = b2 * *v + keep2 * (g * g);
            *w = decay * *w - step * (*m / (v.sqrt() * root + eps));
        }
    }

    fn device(
        self,
        weight: &mut Tensor,
        grad: &Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        noise: Noise,
    ) -> Result<(), ModelError> {
        let s = self.settings;
        let grad = grad.f_mul_scalar(self.scale)?;
        let (mut first, mut second) = (fp32(m)?, fp32(v)?);
        let _ = first.f_lerp_(&grad, 1.0 - s.beta1)?;
        let _ = second.f_mul_scalar_(s.beta2)?.f_add_(&grad.f_square()?.f_mul_scalar(1.0 - s.beta2)?)?;
        let divisor = second.f_sqrt()?.f_mul_scalar(self.root)?.f_add_scalar(s.eps)?;
        let _ = weight.f_mul_scalar_(self.decay)?.f_sub_(&first.f_div(&divisor)?.f_mul_scalar(self.step)?)?;
        store(m, &first, noise.of("exp_avg"))?;
        store(v, &second, noise.of("exp_avg_sq"))
    }
}
