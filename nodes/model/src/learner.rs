//! A model being trained: micro-steps add gradients, `apply` turns them into one update.

use std::path::Path;

use difflow_diffusion::keyed;
use rand::Rng;

use crate::attention::Pattern;
use crate::average::Average;
use crate::batch::MicroBatch;
use crate::error::ModelError;
use crate::host::copied;
use crate::loss::StepSums;
use crate::model::Model;
use crate::objective::{Normaliser, ObjectiveOptions};
use crate::optimizer::{AdamW, OptimizerState};
use crate::shim::forget_gradient;
use crate::snapshot::Snapshot;
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
    average: Option<Average>,
    /// Key of dropout's random numbers.
    dropout_seed: u64,
    /// Micro-steps since the last update.
    micro_steps: u64,
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
        let (average, dropout_seed, micro_steps) = (None, 0, 0);
        Ok(Self { model, options, optimizer, average, dropout_seed, micro_steps, pending: false, finite: true })
    }

    /// Keeps an exponential moving average of the weights (method of the `average` module), beginning now.
    pub fn keep_average(&mut self, decay: f64) -> Result<(), ModelError> {
        self.average = Some(Average::new(decay, &self.model.parameters)?);
        Ok(())
    }

    /// Drops this share of activations in training, at GPT-2's places: embeddings, attention, and the two results that each
    /// block adds. Attention then runs on torch's kernels. The draws are keyed by seed, update and micro-step.
    ///
    /// # Errors
    /// With activation checkpointing, whose second pass would draw anew.
    pub fn set_dropout(&mut self, share: f64, seed: u64) -> Result<(), ModelError> {
        if !(0.0..1.0).contains(&share) {
            return Err(ModelError::input("dropout", share, "0 or more, below 1"));
        }
        self.dropout_seed = seed;
        let Some(decoder) = self.model.decoder.own_mut() else {
            return match share {
                0.0 => Ok(()),
                _ => Err(ModelError::input("dropout in a plug-in's torch model", share, "0: it has its own")),
            };
        };
        if share > 0.0 && decoder.recompute {
            return Err(ModelError::input("dropout with activation checkpointing", share, "one of the two"));
        }
        decoder.dropout = share;
        Ok(())
    }

    /// Forward and backward of one micro-batch; gradients of weighted sum / normaliser add to those of earlier micro-steps.
    pub fn micro_step(
        &mut self,
        batch: &MicroBatch,
        pattern: &Pattern,
        normaliser: Normaliser,
    ) -> Result<StepSums, ModelError> {
        // A plug-in's model may drop something, too.
        if self.model.decoder.own().is_none_or(|decoder| decoder.dropout > 0.0) {
            let mut rng = keyed::rng(self.dropout_seed, "dropout", self.optimizer.step, self.micro_steps);
            tch::manual_seed(rng.next_u64() as i64);
        }
        self.micro_steps += 1;
        let sums = self.model.sums(batch, pattern, self.options, Some(normaliser))?;
        self.pending |= sums.positions > 0;
        self.finite &= sums.is_finite();
        Ok(sums)
    }

    /// Clips, updates and clears the gradients. A NaN or infinite loss or gradient leaves weights and moments as they were.
    pub fn apply(&mut self, lr: f64) -> Result<Applied, ModelError> {
        self.micro_steps = 0;
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
            if let Some(average) = &mut self.average {
                average.add(&self.model.parameters)?;
            }
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

    /// As [`Model::use_tokenizer`].
    ///
    /// # Errors
    /// As that.
    pub fn use_tokenizer(&mut self, json: Vec<u8>) -> Result<(), ModelError> {
        self.model.use_tokenizer(json)
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
    /// on from them gives the same bits as training that never stopped. With an average, the model's file holds the average.
    pub fn save(&self, dir: &Path) -> Result<Vec<SavedFile>, ModelError> {
        self.content(dir)?.write(dir)
    }

    /// A copy of what [`Learner::save`] writes, in host memory: training may go on while another thread writes it into `dir`, an empty
    /// folder. A plug-in's torch model is written there before this returns.
    ///
    /// # Errors
    /// When there is no memory for it: as much again as weights, moments and average take; or what the plug-in says.
    pub fn snapshot(&self, dir: &Path) -> Result<Snapshot, ModelError> {
        self.content(dir)?.copied()
    }

    fn content(&self, dir: &Path) -> Result<Snapshot, ModelError> {
        let optimizer = self.optimizer.content(&self.model.parameters, self.average.is_some())?;
        let model = match &self.average {
            None => self.model.content(dir, |_, parameter| parameter.tensor.shallow_clone())?,
            Some(average) => self.model.content(dir, |at, _| average.values[at].shallow_clone())?,
        };
        Ok(Snapshot { optimizer: Some(optimizer), ..model })
    }

    /// Reads optimizer.safetensors; the model's weights are those the learner was made with. Call [`Learner::keep_average`]
    /// first where an average is kept: the model's file held it, and the weights are read here.
    pub fn load_optimizer(&mut self, dir: &Path) -> Result<(), ModelError> {
        self.optimizer.load(dir, &self.model.parameters, self.average.is_some())
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
