//! What turns gradients into an update: AdamW, or Muon for the hidden matrices and AdamW for the rest; clipping by the global norm; the
//! state's file in a checkpoint.

mod adamw;
mod muon;
mod state;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use tch::{Kind, Tensor};

pub use adamw::AdamW;
pub use muon::Muon;
pub use state::StateKind;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::host::values;
use crate::many::{self, Flags, Trained};
use crate::optimizer::state::Noise;
use crate::parameter::Parameter;
use crate::reducer::Reducer;
use crate::shares::{Piece, Squares};
use crate::snapshot::TensorFile;
use crate::tensor_files::TensorFiles;

/// Name of the state's file in a checkpoint.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// How weights are updated. Matrices decay by AdamW's `weight_decay`, and gradients are clipped by its `clip`, whoever updates them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Optimizer {
    /// Of everything, or of everything but the hidden matrices.
    pub adamw: AdamW,
    /// Of the hidden matrices, where it is not AdamW.
    pub muon: Option<Muon>,
    /// Of the state.
    pub state: StateKind,
}

impl From<AdamW> for Optimizer {
    fn from(adamw: AdamW) -> Self {
        Self { adamw, ..Self::default() }
    }
}

impl Optimizer {
    /// The name in the state's file.
    fn name(&self) -> &'static str {
        if self.muon.is_some() { MUON } else { ADAMW }
    }

    /// Bytes of the state of a model with so many parameters (more than `config` says, where a mask token was added).
    pub fn state_bytes(&self, config: &ModelConfig, parameters: u64) -> u64 {
        let single = if self.muon.is_some() { config.hidden_matrix_count() } else { 0 };
        self.state.bytes() * (2 * parameters - single)
    }
}

const ADAMW: &str = "adamw";
const MUON: &str = "muon";

/// The numbers kept of one parameter.
#[derive(Debug)]
enum Moments {
    /// Moving averages of the gradient and of its square.
    AdamW {
        first: Tensor,
        second: Tensor,
    },
    Muon {
        momentum: Tensor,
    },
}

impl Moments {
    /// By torch's names of them.
    fn named(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::AdamW { first, second } => vec![("exp_avg", first), ("exp_avg_sq", second)],
            Self::Muon { momentum } => vec![("momentum_buffer", momentum)],
        }
    }
}

/// The numbers kept of a parameter, or of a piece of one.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Number of the parameter among all.
    parameter: usize,
    /// Its number among those that are trained, which keys the draws.
    trained: usize,
    /// The elements, flat in the moments; `None`: all of them, in the parameter's shape.
    range: Option<Range<usize>>,
    moments: Moments,
}

/// What the optimizer keeps from update to update.
#[derive(Debug)]
pub(crate) struct OptimizerState {
    pub settings: Optimizer,
    /// Updates done.
    pub step: u64,
    /// Of the trained parameters, in their order.
    kept: Vec<Kept>,
    /// The updates done, on the device, which knows first whether one was skipped.
    counter: Option<Tensor>,
}

/// Those that have moments, with their numbers among all.
fn trained(parameters: &[Parameter]) -> impl Iterator<Item = (usize, &Parameter)> {
    parameters.iter().enumerate().filter(|(_, parameter)| parameter.trainable)
}

impl Optimizer {
    /// Whether a parameter is updated as a whole.
    pub(crate) fn needs_whole(&self, parameter: &Parameter) -> bool {
        self.muon.is_some() && parameter.leaf.matrices.is_some()
    }

    /// Moments of a parameter before its first update, in this size.
    fn begun(&self, parameter: &Parameter, size: &[i64]) -> Result<Moments, ModelError> {
        let zeros = || Tensor::f_zeros(size, (self.state.torch(), parameter.tensor.device()));
        if self.needs_whole(parameter) {
            return Ok(Moments::Muon { momentum: zeros()? });
        }
        Ok(Moments::AdamW { first: zeros()?, second: zeros()? })
    }

    /// Those of all trained parameters.
    fn all_begun(&self, parameters: &[Parameter]) -> Result<Vec<Kept>, ModelError> {
        let begun = |(number, (parameter, of)): (usize, (usize, &Parameter))| {
            let moments = self.begun(of, &of.tensor.size())?;
            Ok(Kept { parameter, trained: number, range: None, moments })
        };
        trained(parameters).enumerate().map(begun).collect()
    }
}

impl OptimizerState {
    pub fn new(settings: Optimizer, parameters: &[Parameter]) -> Result<Self, ModelError> {
        let kept = settings.all_begun(parameters)?;
        Ok(Self { settings, step: 0, kept, counter: None })
    }

    /// Bytes of the moments that are kept.
    pub fn bytes(&self) -> u64 {
        let numbers = |kept: &Kept| kept.moments.named().iter().map(|(_, tensor)| tensor.numel() as u64).sum::<u64>();
        self.settings.state.bytes() * self.kept.iter().map(numbers).sum::<u64>()
    }

    /// Keeps the moments of these pieces only.
    pub fn keep(&mut self, pieces: &[Piece], parameters: &[Parameter]) -> Result<(), ModelError> {
        let all = std::mem::take(&mut self.kept);
        for Piece { parameter, range } in pieces {
            let Some(of) = all.iter().find(|kept| kept.parameter == *parameter) else { continue };
            let moments = self.settings.begun(&parameters[*parameter], &[range.len() as i64])?;
            for ((_, mut to), (_, from)) in moments.named().into_iter().map(owned).zip(of.moments.named()) {
                to.f_copy_(&flat(from, Some(range))?)?;
            }
            self.kept.push(Kept { parameter: *parameter, trained: of.trained, range: Some(range.clone()), moments });
        }
        Ok(())
    }

    /// Where the processes keep pieces: shows this one's to all, and returns the moments of all parameters if `take` is set. A call of all
    /// processes.
    pub fn collected(
        &self,
        parameters: &[Parameter],
        reducer: &dyn Reducer,
        rank: usize,
        take: bool,
    ) -> Result<Vec<Kept>, ModelError> {
        let all = if take { self.settings.all_begun(parameters)? } else { Vec::new() };
        let mut own = self.kept.iter();
        reducer.collect(&mut |of, piece| {
            let shown = if of == rank { own.next() } else { None };
            let whole = all.iter().find(|kept| kept.parameter == piece.parameter);
            let room = match (whole, shown) {
                (Some(whole), _) => {
                    let moments = whole.moments.named().into_iter();
                    moments.map(|(_, tensor)| flat(tensor, Some(&piece.range))).collect::<Result<Vec<_>, _>>()?
                }
                (None, Some(kept)) => kept.moments.named().into_iter().map(|one| owned(one).1).collect(),
                (None, None) => {
                    let passing = self.settings.begun(&parameters[piece.parameter], &[piece.range.len() as i64])?;
                    passing.named().into_iter().map(|one| owned(one).1).collect()
                }
            };
            if let (Some(_), Some(kept)) = (whole, shown) {
                for (place, (_, moment)) in room.iter().zip(kept.moments.named()) {
                    place.shallow_clone().f_copy_(moment)?;
                }
            }
            Ok(room)
        })?;
        Ok(all)
    }

    /// Global norm of the gradients (‖·‖₂ over all parameters). NaN or infinite when a gradient is.
    pub fn grad_norm(&self, parameters: &[Parameter]) -> Result<f64, ModelError> {
        let gradients = parameters.iter().map(|parameter| parameter.tensor.f_grad()).collect::<Result<Vec<_>, _>>()?;
        let gradients: Vec<Tensor> = gradients.into_iter().filter(Tensor::defined).collect();
        let here: Option<Vec<&[f32]>> = gradients.iter().map(values).collect();
        match here {
            Some(here) => {
                let squares = here.into_iter().map(|values| {
                    let mut squares = Squares::default();
                    let rest = squares.add(values);
                    squares.end(rest)
                });
                Ok(squares.sum::<f64>().sqrt())
            }
            // Read back once for all.
            None => Ok(many::norm(&gradients)?.f_double_value(&[])?),
        }
    }

    /// One update from gradients multiplied by `scale`: those that the parameters have, or those of what is kept, flat.
    pub fn update(
        &mut self,
        parameters: &mut [Parameter],
        lr: f64,
        scale: f64,
        gradients: Option<&[Tensor]>,
    ) -> Result<(), ModelError> {
        self.step += 1;
        let Optimizer { adamw, muon, .. } = self.settings;
        let corrections = (1.0 - adamw.beta1.powf(self.step as f64), 1.0 - adamw.beta2.powf(self.step as f64));
        let (step, root) = (lr / corrections.0, 1.0 / corrections.1.sqrt());
        for (at, Kept { parameter, trained, range, moments }) in self.kept.iter_mut().enumerate() {
            let parameter = &parameters[*parameter];
            let grad = match gradients {
                Some(gradients) => gradients[at].shallow_clone(),
                None => parameter.tensor.f_grad()?,
            };
            if !grad.defined() {
                continue;
            }
            let decay = if parameter.is_matrix() { 1.0 - lr * adamw.weight_decay } else { 1.0 };
            let first = range.as_ref().map_or(0, |range| range.start as u64);
            let noise = Noise { step: self.step, parameter: *trained as u64, first };
            let mut weight = flat(&parameter.tensor.f_detach()?, range.as_ref())?;
            match moments {
                Moments::AdamW { first, second } => {
                    let rate = adamw::Rate { settings: adamw, decay, step, root, scale };
                    rate.apply(&mut weight, &grad, first, second, noise)?;
                }
                Moments::Muon { momentum } => {
                    let rate = muon::Rate { settings: muon.unwrap_or_default(), decay, lr, scale };
                    let size = parameter.tensor.size();
                    let (mut weight, grad) = (weight.f_view(size.as_slice())?, grad.f_view(size.as_slice())?);
                    rate.apply(parameter, &mut weight, &grad, &mut momentum.f_view(size.as_slice())?, noise)?;
                }
            }
        }
        Ok(())
    }

    /// Whether one operation of the device updates all parameters: by AdamW, with a state in fp32.
    pub fn is_fused(&self) -> bool {
        self.settings.muon.is_none() && self.settings.state == StateKind::Fp32
    }

    /// One update from gradients divided by `divisor`, unless `skip` is 1: both are fp32 numbers on the device. Nothing is read back, so
    /// the step counts at once; who learns that it was skipped takes it back.
    ///
    /// # Errors
    /// When it is not [`OptimizerState::is_fused`].
    pub fn update_on_device(
        &mut self,
        parameters: &[Parameter],
        lr: f64,
        divisor: &Tensor,
        skip: &Tensor,
    ) -> Result<(), ModelError> {
        self.step += 1;
        let done = match self.counter.take() {
            Some(done) => done,
            None => skip.f_full_like((self.step - 1) as f64)?,
        };
        let step = done.f_add_scalar(1.0)?;
        let (mut matrices, mut others) = (Trained::default(), Trained::default());
        for Kept { parameter, moments, .. } in &self.kept {
            let parameter = &parameters[*parameter];
            let gradient = parameter.tensor.f_grad()?;
            let Moments::AdamW { first, second } = moments else {
                return Err(ModelError::Torch("a fused update of parameters that AdamW does not train".to_owned()));
            };
            if gradient.defined() {
                let group = if parameter.is_matrix() { &mut matrices } else { &mut others };
                group.weights.push(parameter.tensor.shallow_clone());
                group.gradients.push(gradient);
                group.first.push(first.shallow_clone());
                group.second.push(second.shallow_clone());
            }
        }
        let (flags, adamw) = (Flags { step: &step, divisor, skip }, self.settings.adamw);
        many::adamw(&matrices, &flags, adamw, lr, adamw.weight_decay)?;
        many::adamw(&others, &flags, adamw, lr, 0.0)?;
        self.counter = Some(step.f_sub(skip)?);
        Ok(())
    }

    /// What the file holds of one parameter: the moments and, where the model's file has something else, the weights.
    fn saved<'a>(
        &self,
        parameter: &'a Parameter,
        moments: &'a Moments,
        weights: bool,
    ) -> impl Iterator<Item = (&'static str, &'a Tensor, Kind)> {
        let kind = self.settings.state.torch();
        let weight = weights.then_some(("weight", &parameter.tensor, Kind::Float));
        moments.named().into_iter().map(move |(name, tensor)| (name, tensor, kind)).chain(weight)
    }

    /// What its file holds: the moments (of all parameters, where others keep some), named after the files' tensors, the step and, if asked,
    /// the weights.
    pub fn content(
        &self,
        parameters: &[Parameter],
        weights: bool,
        collected: Option<&[Kept]>,
    ) -> Result<TensorFile, ModelError> {
        let mut tensors = BTreeMap::new();
        let all = collected.unwrap_or(&self.kept);
        if let Some(piece) = all.iter().find(|kept| kept.range.is_some()) {
            let name = &parameters[piece.parameter].leaf.parts[0].name;
            return Err(ModelError::Ranks(format!(
                "the moments of `{name}` are kept by several ranks, and were not collected"
            )));
        }
        for Kept { parameter, moments, .. } in all {
            let parameter = &parameters[*parameter];
            for (moment, tensor, kind) in self.saved(parameter, moments, weights) {
                for (part, view) in parameter.split(tensor)? {
                    tensors.insert(format!("{moment}.{}", part.name), (view, kind));
                }
            }
        }
        let mut notes =
            BTreeMap::from([("format".to_owned(), "pt".to_owned()), ("step".to_owned(), self.step.to_string())]);
        // AdamW's is without: it was the only one.
        if self.settings.muon.is_some() {
            notes.insert("optimizer".to_owned(), self.settings.name().to_owned());
        }
        Ok(TensorFile { name: OPTIMIZER_FILE, tensors, notes })
    }

    /// Reads a file with that content.
    pub fn load(&mut self, dir: &Path, parameters: &[Parameter], weights: bool) -> Result<(), ModelError> {
        let path = dir.join(OPTIMIZER_FILE);
        let files = TensorFiles::open(path.clone(), std::slice::from_ref(&path))?;
        let wrong = |detail: String| ModelError::OptimizerState { file: path.clone(), detail };
        let (found, wanted) = (files.note("optimizer").unwrap_or(ADAMW).to_owned(), self.settings.name());
        if found != wanted {
            return Err(ModelError::OtherOptimizer { file: path, found, wanted });
        }
        let step = files.note("step").and_then(|step| step.parse().ok());
        let step = step.ok_or_else(|| wrong("its metadata has no `step`".to_owned()))?;
        let mut used = 0;
        for (number, parameter) in trained(parameters) {
            let own: Vec<&Kept> = self.kept.iter().filter(|kept| kept.parameter == number).collect();
            let direct = own.first().filter(|kept| kept.range.is_none()).map(|kept| &kept.moments);
            // Where pieces are kept, one whole parameter at a time is read.
            let size = parameter.tensor.size();
            let passing = if direct.is_none() { Some(self.settings.begun(parameter, &size)?) } else { None };
            let Some(whole) = direct.or(passing.as_ref()) else { continue };
            for (moment, tensor, _) in self.saved(parameter, whole, weights) {
                for (part, mut view) in parameter.split(&tensor.f_detach()?)? {
                    let name = format!("{moment}.{}", part.name);
                    let found = files.get(&name, &part.shape)?;
                    let found = found.ok_or_else(|| wrong(format!("tensor `{name}` is missing")))?;
                    view.f_copy_(&found)?;
                    used += 1;
                }
            }
            for kept in own.iter().filter(|kept| kept.range.is_some()) {
                for ((_, mut to), (_, from)) in kept.moments.named().into_iter().map(owned).zip(whole.named()) {
                    to.f_copy_(&flat(from, kept.range.as_ref())?)?;
                }
            }
        }
        let all = files.names().count();
        if all != used {
            return Err(wrong(format!("found {all} tensors, wanted {used}")));
        }
        (self.step, self.counter) = (step, None);
        Ok(())
    }
}

/// An element of a moment by its name, with a handle of its own.
fn owned((name, tensor): (&'static str, &Tensor)) -> (&'static str, Tensor) {
    (name, tensor.shallow_clone())
}

/// Elements of a tensor as they lie in memory; the tensor itself where none are said.
fn flat(tensor: &Tensor, range: Option<&Range<usize>>) -> Result<Tensor, ModelError> {
    let Some(range) = range else { return Ok(tensor.shallow_clone()) };
    Ok(tensor.f_view(-1)?.f_narrow(0, range.start as i64, range.len() as i64)?)
}
