//! A model being trained: micro-steps add gradients, `apply` turns them into one update.

use std::path::Path;

use crate::attention::Pattern;
use crate::batch::MicroBatch;
use crate::error::ModelError;
use crate::host::copied;
use crate::loss::StepSums;
use crate::model::Model;
use crate::objective::{Normaliser, ObjectiveOptions};
use crate::optimizer::{AdamW, OptimizerState};
use crate::shim::forget_gradient;
use crate::tensor_writer::SavedFile;

/// What one update did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Applied {
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// True when the gradient was scaled down.
    pub clipped: bool,
    /// False when nothing was changed: no position carried loss, or a loss or gradient was NaN or infinite.
    pub updated: bool,
    /// False when a loss or gradient was NaN or infinite.
    pub finite: bool,
}

/// Model, objective and optimizer together. Same inputs, same number of threads: same bits.
#[derive(Debug)]
pub struct Learner {
    model: Model,
    options: ObjectiveOptions,
    optimizer: OptimizerState,
    /// Some position carried loss since the last update.
    pending: bool,
    finite: bool,
}

impl Learner {
    /// Takes a model (with a mask token, for diffusion) and starts with empty optimizer state.
    pub fn new(mut model: Model, options: ObjectiveOptions, optimizer: AdamW) -> Result<Self, ModelError> {
        if options.objective != crate::objective::Objective::Ar {
            model.config.mask_token_id()?;
        }
        model.set_objective(options.objective);
        for parameter in &model.parameters {
            let _ = parameter.tensor.f_set_requires_grad(true)?;
        }
        let optimizer = OptimizerState::new(optimizer, &model.parameters)?;
        Ok(Self { model, options, optimizer, pending: false, finite: true })
    }

    /// Forward and backward of one micro-batch; gradients of weighted sum / normaliser add to those of earlier micro-steps.
    pub fn micro_step(
        &mut self,
        batch: &MicroBatch,
        pattern: &Pattern,
        normaliser: Normaliser,
    ) -> Result<StepSums, ModelError> {
        let sums = self.model.sums(batch, pattern, self.options, Some(normaliser))?;
        self.pending |= sums.positions > 0;
        self.finite &= sums.is_finite();
        Ok(sums)
    }

    /// Clips, updates and clears the gradients. A NaN or infinite loss or gradient leaves weights and moments as they were.
    pub fn apply(&mut self, lr: f64) -> Result<Applied, ModelError> {
        let (pending, finite) = (std::mem::take(&mut self.pending), std::mem::replace(&mut self.finite, true));
        if !pending {
            return Ok(Applied { grad_norm: 0.0, clipped: false, updated: false, finite });
        }
        let grad_norm = self.optimizer.grad_norm(&self.model.parameters)?;
        let finite = finite && grad_norm.is_finite();
        let clip = self.optimizer.settings.clip.filter(|&clip| grad_norm > clip);
        if finite {
            // PyTorch's clip_grad_norm_ adds the same 1e-6.
            let scale = clip.map_or(1.0, |clip| clip / (grad_norm + 1e-6));
            self.optimizer.update(&mut self.model.parameters, lr, scale)?;
        }
        self.clear_gradients()?;
        Ok(Applied { grad_norm, clipped: finite && clip.is_some(), updated: finite, finite })
    }

    fn clear_gradients(&mut self) -> Result<(), ModelError> {
        self.model.parameters.iter_mut().try_for_each(|parameter| forget_gradient(&mut parameter.tensor))
    }

    /// Updates done since the optimizer state was new.
    pub fn updates(&self) -> u64 {
        self.optimizer.step
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, when training is over.
    pub fn into_model(self) -> Model {
        for parameter in &self.model.parameters {
            let _ = parameter.tensor.set_requires_grad(false);
        }
        self.model
    }

    /// Writes the model's files and optimizer.safetensors into an existing directory, each synced to disk. Training that goes
    /// on from them gives the same bits as training that never stopped.
    pub fn save(&self, dir: &Path) -> Result<Vec<SavedFile>, ModelError> {
        let mut saved = self.model.save(dir)?;
        saved.push(self.optimizer.save(dir, &self.model.parameters)?);
        Ok(saved)
    }

    /// Reads optimizer.safetensors; the model's weights are those the learner was made with.
    pub fn load_optimizer(&mut self, dir: &Path) -> Result<(), ModelError> {
        self.optimizer.load(dir, &self.model.parameters)
    }

    /// Gradient of each tensor by name, row-major fp32: for tests and inspection.
    pub fn gradients(&self) -> Result<Vec<(String, Vec<f32>)>, ModelError> {
        let mut all = Vec::new();
        for parameter in &self.model.parameters {
            let grad = parameter.tensor.f_grad()?;
            if grad.defined() {
                for (part, view) in parameter.split(&grad)? {
                    all.push((part.name.clone(), copied(&view)?));
                }
            }
        }
        Ok(all)
    }
}
