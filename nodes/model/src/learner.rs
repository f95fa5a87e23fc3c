//! A model in training: micro-steps accumulate gradients, `apply` turns them into one update.

mod recorded;
mod saved;
mod update;

use std::sync::Arc;

use difflow_diffusion::keyed;
use rand::Rng;

use crate::alignment::Alignment;
use crate::arithmetic::Arithmetic;
use crate::average::Average;
use crate::batch::MicroBatch;
use crate::caught::caught;
use crate::device::Device;
use crate::error::ModelError;
use crate::gathered::{Gathered, Gathering};
use crate::group::Group;
use crate::host::copied;
use crate::kept_memory::keep_freed_memory;
use crate::loss::{Divisor, Lesson, Losses};
use crate::model::Model;
use crate::objective::{Blocks, Normaliser, Objective, ObjectiveOptions};
use crate::optimizer::{Optimizer, OptimizerState};
use crate::parameter::Parameter;
use crate::pattern::Pattern;
use crate::ranks::{Ranks, Reduction, Sharding};
use crate::reducer::{Alone, Reducer};
use crate::shim::{forget_gradient, set_gradient};
use crate::step_sums::StepSums;
use crate::sum::{Leaf, Tree, copied as copied_leaf};
use crate::tensor_writer::FILE_LIMIT;
use crate::totals::Totals;
use recorded::Recorder;
use update::{CLIP_EPS, Update};

pub use recorded::GraphUse;
pub use update::Unread;

/// What one update did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Applied {
    /// What the micro-steps added up to.
    pub totals: Totals,
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
    /// Of its forwards: the model's, and dropout.
    arithmetic: Arithmetic,
    optimizer: OptimizerState,
    average: Option<Average>,
    alignment: Option<Alignment>,
    /// Of the routers' loss.
    router_weight: f64,
    /// Key of dropout's random numbers.
    dropout_seed: u64,
    reducer: Box<dyn Reducer>,
    /// Bytes of tensors that a file has at most.
    file_limit: u64,
    sums: Sums,
    /// Updates are computed by operations of the device, without waiting for it.
    on_device: bool,
    /// Of updates that are recorded.
    recorder: Option<Recorder>,
}

/// What has been added up since the last update.
#[derive(Debug)]
struct Sums {
    /// Of each micro-batch; without the losses, where those are on the device.
    totals: Vec<Totals>,
    /// The gradients of the micro-batches before the last one, which are still in the parameters.
    gradients: Tree,
    /// Those that are on the device.
    losses: Vec<Losses>,
    /// Stands for the maskable tokens of the global batch, which are known only when all of it has been seen: the gradients are divided
    /// by it at each micro-step, so that they have about the size that they end with, and the update puts the difference right. It is
    /// the number of the first micro-batch; where that is the only one there is nothing to put right.
    divisor: f64,
}

impl Sums {
    fn nothing() -> Self {
        Self { totals: Vec::new(), gradients: Tree::default(), losses: Vec::new(), divisor: 1.0 }
    }
}

/// Takes the share of this rank out of a model.
fn shared(mut model: Model, group: Arc<Group>, optimizer: &Optimizer) -> Result<(Model, Gathering), ModelError> {
    let refused = |found: &str, wanted: &str| ModelError::input("what ranks keep shares of", found, wanted);
    if optimizer.muon.is_some() {
        return Err(refused("matrices that Muon updates as a whole", "AdamW"));
    }
    if model.device != Device::Cpu || !model.arithmetic.kernels {
        return Err(ModelError::input("several ranks", "torch's own updates", "the CPU, and difflow's kernels"));
    }
    if model.parameters.iter().any(|parameter| !parameter.trainable) {
        return Err(refused(
            "weights that are not trained",
            "a model whose weights are all trained, without an adapter",
        ));
    }
    let own = model.decoder.own().ok_or_else(|| refused("a plug-in's torch model", "a model of difflow's own"))?;
    let units = own.units.clone();
    let gathering = Gathered::begin(group, &units, &mut model.parameters)?;
    model.rebuild(Some(gathering.gathered.clone()))?;
    Ok((model, gathering))
}

impl Learner {
    /// Takes a model (with a mask token, for diffusion) and starts with empty optimizer state.
    pub fn new(model: Model, options: ObjectiveOptions, optimizer: impl Into<Optimizer>) -> Result<Self, ModelError> {
        Self::joined(model, options, optimizer.into(), |_| Ok(Box::new(Alone)))
    }

    /// As [`Learner::new`], for one of several processes that train the same model; each has so many micro-batches of every update, and the
    /// optimizer's state of its share.
    ///
    /// # Errors
    /// With [`Sharding::Parameters`] on a GPU or without difflow's kernels, for Muon, adapters, and the torch model of a plug-in; with
    /// [`Reduction::Ring`] and another [`Sharding`] than none.
    pub fn of_ranks(
        model: Model,
        options: ObjectiveOptions,
        optimizer: impl Into<Optimizer>,
        group: Arc<Group>,
        micro_batches: u64,
        sharding: Sharding,
        reduction: Reduction,
    ) -> Result<Self, ModelError> {
        let optimizer = optimizer.into();
        if sharding == Sharding::Parameters && reduction == Reduction::Tree {
            let (model, gathering) = shared(model, group.clone(), &optimizer)?;
            return Self::joined(model, options, optimizer, |parameters| {
                Ok(Box::new(Ranks::gathering(group, micro_batches, gathering, parameters)))
            });
        }
        Self::joined(model, options, optimizer, |parameters| {
            let whole = |parameter: &Parameter| optimizer.needs_whole(parameter);
            Ok(Box::new(Ranks::new(group, micro_batches, (sharding, reduction), parameters, whole)?))
        })
    }

    /// As [`Learner::new`], with others that train the same model.
    pub(crate) fn joined(
        mut model: Model,
        options: ObjectiveOptions,
        optimizer: Optimizer,
        reducer: impl FnOnce(&[Parameter]) -> Result<Box<dyn Reducer>, ModelError>,
    ) -> Result<Self, ModelError> {
        if options.objective != Objective::Ar {
            model.config.mask_token_id()?;
        }
        if let Objective::Block(blocks) = options.objective {
            blocks.check(options.document_attention)?;
        }
        if model.parameters.iter().any(|parameter| parameter.source.is_some()) {
            let wanted = "several ranks that each keep a share of them";
            return Err(ModelError::input("who trains a model whose weights have not been read", "others", wanted));
        }
        keep_freed_memory();
        model.set_objective(options.objective);
        for parameter in &model.parameters {
            let _ = parameter.tensor.f_set_requires_grad(parameter.trainable)?;
        }
        if optimizer.muon.is_some() && model.decoder.own().is_none() {
            let wanted = "AdamW: it does not say which of its matrices are hidden";
            return Err(ModelError::input("the optimizer of a plug-in's torch model", "Muon", wanted));
        }
        let mut arithmetic = model.arithmetic;
        arithmetic.adapter_dropout = model.adapter().map_or(0.0, |adapter| adapter.lora_dropout);
        let torch = model.device != Device::Cpu || !arithmetic.kernels;
        model.round()?;
        let reducer = reducer(&model.parameters)?;
        let optimizer = OptimizerState::new(optimizer, &model.parameters, reducer.pieces())?;
        let (average, alignment, dropout_seed, sums) = (None, None, 0, Sums::nothing());
        let on_device = torch && optimizer.is_fused();
        Ok(Self {
            model,
            options,
            arithmetic,
            optimizer,
            average,
            alignment,
            router_weight: 0.0,
            dropout_seed,
            reducer,
            file_limit: FILE_LIMIT,
            sums,
            on_device,
            recorder: None,
        })
    }

    /// The share of the optimizer's state that this process keeps.
    pub fn state_share(&self) -> f64 {
        self.optimizer.share(&self.model.parameters)
    }

    /// Keeps an exponential moving average of the weights (method of the `average` module), beginning now.
    pub fn keep_average(&mut self, decay: f64) -> Result<(), ModelError> {
        let weights = self.reducer.weights()?;
        self.average = Some(Average::new(decay, &self.model.parameters, weights.as_deref())?);
        Ok(())
    }

    /// Draws the hidden states to those of `base`, which stays as it is (method of the `alignment` module): the loss is objective +
    /// `weight` · distance, summed over the predicted tokens and divided as the objective is.
    ///
    /// # Errors
    /// With another objective than diffusion, when the models differ in layers or width, or where ranks keep shares of the weights.
    pub fn align(&mut self, base: Model, weight: f64) -> Result<(), ModelError> {
        if self.reducer.weights()?.is_some() {
            let wanted = "all of them: each rank would need a whole base model beside its share";
            return Err(ModelError::input("alignment of a model with shared weights", "a share of them", wanted));
        }
        if self.options.objective == Objective::Ar {
            return Err(ModelError::input("alignment with the base model", "with next-token prediction", "diffusion"));
        }
        self.alignment = Some(Alignment::new(base, &self.model, weight)?);
        Ok(())
    }

    /// Adds the load-balancing loss of the routers, as `transformers` computes it, to the objective: the loss of a forward is its mean
    /// cross-entropy + `weight` · that loss, and those of several forwards are added up as their objectives are. Tokens of padding do not
    /// count.
    ///
    /// # Errors
    /// With a model that has no experts.
    pub fn balance_experts(&mut self, weight: f64) -> Result<(), ModelError> {
        if weight > 0.0 && self.model.config.experts.is_none() {
            let found = format!("{weight} for {}", self.model.config.architecture);
            return Err(ModelError::input("weight of the routers' loss", found, "0: the model has no experts"));
        }
        self.router_weight = weight;
        Ok(())
    }

    /// Drops this share of activations in training, at GPT-2's places: embeddings, attention, and the two results that each
    /// block adds. Attention then runs on torch's kernels. The draws are keyed by seed, update and the
    /// micro-batch's number in the global batch.
    ///
    /// # Errors
    /// With activation checkpointing, whose second pass would draw anew.
    pub fn set_dropout(&mut self, share: f64, seed: u64) -> Result<(), ModelError> {
        if !(0.0..1.0).contains(&share) {
            return Err(ModelError::input("dropout", share, "0 or more, below 1"));
        }
        if share > 0.0 && self.model.decoder.own().is_none() {
            return Err(ModelError::input("dropout in a plug-in's torch model", share, "0: it has its own"));
        }
        if share > 0.0 && self.arithmetic.recompute {
            return Err(ModelError::input("dropout with activation checkpointing", share, "one of the two"));
        }
        (self.dropout_seed, self.arithmetic.dropout) = (seed, share);
        Ok(())
    }

    /// Forward and backward of one micro-batch; its gradients add to those of earlier micro-steps. Batches may come one by one: how
    /// many there will be, and how large they are together, need not be known. Waits for the device, to return the losses.
    pub fn micro_step(&mut self, batch: &MicroBatch, pattern: &Pattern) -> Result<StepSums, ModelError> {
        if self.recorder.is_some() {
            return Err(ModelError::Torch("the losses of a recorded update come with it".to_owned()));
        }
        self.forward_backward(batch, pattern)?.read()
    }

    /// As [`Learner::micro_step`], without waiting: the losses come with the update's [`Applied`].
    pub fn start_micro_step(&mut self, batch: &MicroBatch, pattern: &Pattern) -> Result<(), ModelError> {
        if self.recorder.is_none() {
            return self.forward_backward(batch, pattern).map(drop);
        }
        let divisor = self.divisor(batch)?;
        let counted = caught(|| self.wait_with(batch, pattern, divisor))?;
        self.sums.totals.push(Totals::of(counted, batch.tokens_read()));
        Ok(())
    }

    /// What the gradients of the next micro-step are divided by.
    fn divisor(&mut self, batch: &MicroBatch) -> Result<Divisor, ModelError> {
        if self.sums.totals.is_empty() {
            self.sums.divisor = self.reducer.divisor(batch.maskable_tokens().max(1) as f64)?;
        }
        Ok(match self.options.normaliser {
            Normaliser::MaskableTokens => Divisor::Number(self.sums.divisor),
            Normaliser::MaskedTokens => Divisor::Positions,
        })
    }

    fn forward_backward(&mut self, batch: &MicroBatch, pattern: &Pattern) -> Result<&Losses, ModelError> {
        let number = self.sums.totals.len() as u64;
        if number > 0 && !self.reducer.takes_gradients() {
            // Not left there for the next one's to be added to: the order of additions must not depend on who has which micro-batch.
            let gradients = self.take_gradients()?;
            self.sums.gradients.push(gradients)?;
        }
        self.reducer.begin(number, &mut self.sums.gradients);
        // A plug-in's model may drop something, too.
        if self.model.decoder.own().is_none() || self.arithmetic.dropout > 0.0 || self.arithmetic.adapter_dropout > 0.0
        {
            let number = self.reducer.number(number);
            let mut rng = keyed::rng(self.dropout_seed, "dropout", self.optimizer.step, number);
            tch::manual_seed(rng.next_u64() as i64);
        }
        let divisor = self.divisor(batch)?;
        let (reducer, router_weight) = (self.reducer.as_ref(), self.router_weight);
        let lesson = Lesson { divisor, alignment: self.alignment.as_ref(), router_weight, reducer };
        let losses = caught(|| self.model.losses(batch, pattern, self.options, self.arithmetic, Some(lesson)));
        let losses = losses.map_err(|e| reducer.problem().unwrap_or(e))?;
        reducer.passed()?;
        let later = self.on_device && !self.reducer.tells_losses();
        let known = if later { losses.counted() } else { losses.read()?.sums };
        self.sums.totals.push(Totals::of(known, batch.tokens_read()));
        self.sums.losses.push(losses);
        self.sums.losses.last().ok_or_else(|| ModelError::Torch("a micro-step without losses".to_owned()))
    }

    /// What the gradients of the micro-steps are still to be multiplied by. Exactly 1 where there was one micro-step.
    fn factor(&self, totals: &Totals) -> f64 {
        match self.options.normaliser {
            Normaliser::MaskableTokens => self.sums.divisor / totals.maskable.max(1) as f64,
            Normaliser::MaskedTokens => 1.0 / totals.micro_batches.max(1) as f64,
        }
    }

    /// Adds up over all processes, divides, clips, updates and clears the gradients. A NaN or infinite loss or gradient leaves weights
    /// and moments as they were. Waits for the device.
    pub fn apply(&mut self, lr: f64) -> Result<Applied, ModelError> {
        let unread = self.start_update(lr)?;
        self.read(unread)
    }

    /// As [`Learner::apply`], without waiting: [`Learner::read`] says what it did. Updates are read in their order.
    pub fn start_update(&mut self, lr: f64) -> Result<Unread, ModelError> {
        if self.recorder.is_none() {
            self.add_gradients()?;
        }
        let totals = self.reducer.add(&self.sums.totals, &mut self.model.parameters)?;
        let (factor, finite) = (self.factor(&totals), totals.is_finite());
        let mut losses = std::mem::replace(&mut self.sums, Sums::nothing()).losses;
        if totals.positions + totals.ar_positions == 0 {
            self.forget_waiting();
            let applied = Applied { totals, grad_norm: 0.0, clipped: false, updated: false, finite };
            return Ok(Unread(Update::Done(applied)));
        }
        if self.recorder.is_some() {
            return caught(|| self.update_recorded(lr, totals, factor));
        }
        let share = self.reducer.share(&self.model.parameters)?;
        if self.on_device {
            if self.reducer.tells_losses() {
                losses.clear();
            }
            return caught(|| self.start_on_device(lr, totals, factor, losses, share));
        }
        let grad_norm = factor
            * match &share {
                Some(share) => share.norm,
                None => self.optimizer.grad_norm(&self.model.parameters)?,
            };
        self.reducer.alike(grad_norm)?;
        let finite = finite && grad_norm.is_finite();
        let clip = self.optimizer.settings.adamw.clip.filter(|&clip| grad_norm > clip);
        if finite {
            let scale = factor * clip.map_or(1.0, |clip| clip / (grad_norm + CLIP_EPS));
            self.optimizer.update(&mut self.model.parameters, lr, scale, share.as_ref())?;
            self.reducer.spread(&mut self.model.parameters)?;
            if let Some(average) = &mut self.average {
                match share.and_then(|share| share.weights) {
                    Some(weights) => average.add_pieces(&weights)?,
                    None => average.add(&self.model.parameters)?,
                }
            }
            self.round_again()?;
        }
        self.clear_gradients()?;
        let applied = Applied { totals, grad_norm, clipped: finite && clip.is_some(), updated: finite, finite };
        Ok(Unread(Update::Done(applied)))
    }

    /// The gradients that the parameters have, which they lose.
    fn take_gradients(&mut self) -> Result<Leaf, ModelError> {
        let take = |parameter: &mut Parameter| {
            let gradient = parameter.tensor.f_grad()?;
            forget_gradient(&mut parameter.tensor)?;
            Ok(gradient)
        };
        self.model.parameters.iter_mut().map(take).collect()
    }

    /// Puts the sum over the micro-batches into the parameters.
    fn add_gradients(&mut self) -> Result<(), ModelError> {
        if self.sums.gradients.is_empty() || self.reducer.takes_gradients() {
            return Ok(());
        }
        let last = self.take_gradients()?;
        self.sums.gradients.push(last)?;
        let sum = self.sums.gradients.take()?.unwrap_or_default();
        for (parameter, gradient) in self.model.parameters.iter_mut().zip(&sum) {
            set_gradient(&mut parameter.tensor, gradient)?;
        }
        Ok(())
    }

    fn clear_gradients(&mut self) -> Result<(), ModelError> {
        self.model.parameters.iter_mut().try_for_each(|parameter| forget_gradient(&mut parameter.tensor))
    }

    /// For block diffusion: the size of blocks that the model is to be decoded with where nothing else is said, which checkpoints hold.
    /// Rows of training say their own.
    ///
    /// # Errors
    /// With another objective, or a size of 0.
    pub fn set_block_size(&mut self, size: usize) -> Result<(), ModelError> {
        let Objective::Block(blocks) = self.options.objective else {
            let found = format!("one for {:?}", self.options.objective.kind());
            return Err(ModelError::input("block size", found, "block diffusion"));
        };
        if size == 0 {
            return Err(ModelError::input("block size", size, "1 or more"));
        }
        self.options.objective = Objective::Block(Blocks { size, ..blocks });
        self.model.set_objective(self.options.objective);
        Ok(())
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

    /// As [`Model::use_chat_template`].
    pub fn use_chat_template(&mut self, text: Vec<u8>) {
        self.model.use_chat_template(text);
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Gradient of each tensor by name, row-major fp32, as an update would take it now: for tests and inspection. None where ranks keep shares
    /// of it.
    pub fn gradients(&self) -> Result<Vec<(String, Vec<f32>)>, ModelError> {
        let factor = self.factor(&Totals::sum(self.sums.totals.iter().copied())) as f32;
        let last: Leaf = self.model.parameters.iter().map(|p| p.tensor.f_grad()).collect::<Result<_, _>>()?;
        let mut tree = self.sums.gradients.copied()?;
        tree.push(copied_leaf(&last)?)?;
        let mut all = Vec::new();
        for (parameter, grad) in self.model.parameters.iter().zip(tree.take()?.unwrap_or_default()) {
            if grad.defined() {
                for (part, view) in parameter.split(&grad)? {
                    let mut values = copied(&view)?;
                    values.iter_mut().for_each(|value| *value *= factor);
                    all.push((part.name.clone(), values));
                }
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
#[path = "learner_tests.rs"]
mod tests;
