//! AdamW (arXiv 1711.05101) with global-norm clipping, on fp32 master weights.
//!
//! On the CPU, one pass over a parameter reads the gradient once and writes the weight and both moments; clipping is
//! a factor in that pass. Every element is computed independently, so the number of threads does not change the bits.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::host::{values, values_mut};
use crate::parameter::Parameter;
use crate::snapshot::TensorFile;
use crate::tensor_files::TensorFiles;

/// Name of the state's file in a checkpoint.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

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

/// Moments of every parameter.
#[derive(Debug)]
pub(crate) struct OptimizerState {
    pub settings: AdamW,
    /// Updates done.
    pub step: u64,
    /// Of the trained parameters, in their order.
    moments: Vec<(Tensor, Tensor)>,
}

/// Those that have moments.
fn trained(parameters: &[Parameter]) -> impl Iterator<Item = &Parameter> {
    parameters.iter().filter(|parameter| parameter.trainable)
}

impl OptimizerState {
    pub fn new(settings: AdamW, parameters: &[Parameter]) -> Result<Self, ModelError> {
        let zeros = |p: &Parameter| p.tensor.f_detach()?.f_zeros_like();
        let moments = trained(parameters).map(|p| Ok((zeros(p)?, zeros(p)?))).collect::<Result<_, ModelError>>()?;
        Ok(Self { settings, step: 0, moments })
    }

    /// Global norm of the gradients (‖·‖₂ over all parameters). NaN or infinite when a gradient is.
    pub fn grad_norm(&self, parameters: &[Parameter]) -> Result<f64, ModelError> {
        let mut sum = 0.0;
        for parameter in parameters {
            let grad = parameter.tensor.f_grad()?;
            if grad.defined() {
                sum += match values(&grad) {
                    Some(grad) => squares(grad),
                    None => grad.f_to_kind(Kind::Float)?.f_norm()?.f_double_value(&[])?.powi(2),
                };
            }
        }
        Ok(sum.sqrt())
    }

    /// One update from gradients multiplied by `scale`.
    pub fn update(&mut self, parameters: &mut [Parameter], lr: f64, scale: f64) -> Result<(), ModelError> {
        self.step += 1;
        let s = self.settings;
        let corrections = (1.0 - s.beta1.powf(self.step as f64), 1.0 - s.beta2.powf(self.step as f64));
        let trained = parameters.iter_mut().filter(|parameter| parameter.trainable);
        for (parameter, (m, v)) in trained.zip(&mut self.moments) {
            let grad = parameter.tensor.f_grad()?;
            if !grad.defined() {
                continue;
            }
            let decay = if parameter.is_matrix() { 1.0 - lr * s.weight_decay } else { 1.0 };
            let rate = Rate { settings: s, decay, step: lr / corrections.0, root: 1.0 / corrections.1.sqrt(), scale };
            let mut weight = parameter.tensor.f_detach()?;
            // SAFETY: three tensors with memory of their own, of which no other slice is in use during an update.
            let (to, m_to, v_to) = unsafe { (values_mut(&mut weight), values_mut(m), values_mut(v)) };
            match (values(&grad), to, m_to, v_to) {
                (Some(grad), Some(weight), Some(m), Some(v)) => rate.host(weight, grad, m, v),
                _ => rate.device(&mut weight, &grad, m, v)?,
            }
        }
        Ok(())
    }

    /// What the file holds of one parameter: the moments and, where the model's file has something else, the weights.
    fn kept<'a>(
        parameter: &'a Parameter,
        (m, v): &'a (Tensor, Tensor),
        weights: bool,
    ) -> impl Iterator<Item = (&'static str, &'a Tensor)> {
        let weight = weights.then_some(("weight", &parameter.tensor));
        [("exp_avg", m), ("exp_avg_sq", v)].into_iter().chain(weight)
    }

    /// What its file holds: the moments, named after the files' tensors, the step and, if asked, the weights.
    pub fn content(&self, parameters: &[Parameter], weights: bool) -> Result<TensorFile, ModelError> {
        let mut tensors = BTreeMap::new();
        for (parameter, moments) in trained(parameters).zip(&self.moments) {
            for (moment, tensor) in Self::kept(parameter, moments, weights) {
                for (part, view) in parameter.split(tensor)? {
                    tensors.insert(format!("{moment}.{}", part.name), (view, Kind::Float));
                }
            }
        }
        let notes =
            BTreeMap::from([("format".to_owned(), "pt".to_owned()), ("step".to_owned(), self.step.to_string())]);
        Ok(TensorFile { name: OPTIMIZER_FILE, tensors, notes })
    }

    /// Reads a file with that content.
    pub fn load(&mut self, dir: &Path, parameters: &[Parameter], weights: bool) -> Result<(), ModelError> {
        let path = dir.join(OPTIMIZER_FILE);
        let files = TensorFiles::open(path.clone(), std::slice::from_ref(&path))?;
        let wrong = |detail: String| ModelError::OptimizerState { file: path.clone(), detail };
        let step = files.note("step").and_then(|step| step.parse().ok());
        let step = step.ok_or_else(|| wrong("its metadata has no `step`".to_owned()))?;
        let mut used = 0;
        for (parameter, moments) in trained(parameters).zip(&self.moments) {
            for (moment, tensor) in Self::kept(parameter, moments, weights) {
                for (part, mut view) in parameter.split(&tensor.f_detach()?)? {
                    let name = format!("{moment}.{}", part.name);
                    let found = files.get(&name, &part.shape)?;
                    let found = found.ok_or_else(|| wrong(format!("tensor `{name}` is missing")))?;
                    view.f_copy_(&found)?;
                    used += 1;
                }
            }
        }
        let all = files.names().count();
        if all != used {
            return Err(wrong(format!("found {all} tensors, wanted {used}")));
        }
        self.step = step;
        Ok(())
    }
}

/// The numbers of one parameter's update.
#[derive(Clone, Copy)]
struct Rate {
    settings: AdamW,
    decay: f64,
    /// lr / (1 − β₁ᵗ)
    step: f64,
    /// 1 / √(1 − β₂ᵗ)
    root: f64,
    scale: f64,
}

impl Rate {
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

    fn device(self, weight: &mut Tensor, grad: &Tensor, m: &mut Tensor, v: &mut Tensor) -> Result<(), ModelError> {
        let s = self.settings;
        let grad = grad.f_mul_scalar(self.scale)?;
        let _ = m.f_lerp_(&grad, 1.0 - s.beta1)?;
        let _ = v.f_mul_scalar_(s.beta2)?.f_add_(&grad.f_square()?.f_mul_scalar(1.0 - s.beta2)?)?;
        let divisor = v.f_sqrt()?.f_mul_scalar(self.root)?.f_add_scalar(s.eps)?;
        let _ = weight.f_mul_scalar_(self.decay)?.f_sub_(&m.f_div(&divisor)?.f_mul_scalar(self.step)?)?;
        Ok(())
    }
}

/// Σ x² in f64 over sixteen lanes: a fixed order of additions, whatever the number of threads.
fn squares(values: &[f32]) -> f64 {
    let mut lanes = [0f64; 16];
    let chunks = values.chunks_exact(16);
    let rest: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum::<f64>() + rest
}
