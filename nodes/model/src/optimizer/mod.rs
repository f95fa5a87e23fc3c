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
use crate::many::{self, Flags, Rate, Trained};
use crate::optimizer::state::Noise;
use crate::parameter::{Parameter, Part};
use crate::reducer::{Reducer, Share};
use crate::shares::{Piece, Squares};
use crate::snapshot::TensorFile;
use crate::tensor_files::TensorFiles;
use crate::tensor_writer::{Put, SavedFile};
use crate::together::{Target, write_together};

/// Name of the state's file in a checkpoint, without its ending, or of its files.
const OPTIMIZER: &str = "optimizer";

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

    /// By torch's names of them.
    fn moments(&self, parameter: &Parameter) -> &'static [&'static str] {
        if self.needs_whole(parameter) { &["momentum_buffer"] } else { &["exp_avg", "exp_avg_sq"] }
    }
}

/// A tensor of the state's file.
struct Listed<'a> {
    part: &'a Part,
    /// The elements of the parameter that it has.
    piece: Piece,
    /// Number of the moment; `None`: the weights.
    moment: Option<usize>,
}

impl OptimizerState {
    /// That of all parameters, or of these pieces of them.
    pub fn new(settings: Optimizer, parameters: &[Parameter], pieces: Option<&[Piece]>) -> Result<Self, ModelError> {
        let mut kept = Vec::new();
        for (number, (parameter, of)) in trained(parameters).enumerate() {
            let mut keep = |size: &[i64], range| {
                kept.push(Kept { parameter, trained: number, range, moments: settings.begun(of, size)? });
                Ok::<_, ModelError>(())
            };
            match pieces {
                None => keep(&of.tensor.size(), None)?,
                Some(pieces) => {
                    for Piece { range, .. } in pieces.iter().filter(|piece| piece.parameter == parameter) {
                        keep(&[range.len() as i64], Some(range.clone()))?;
                    }
                }
            }
        }
        Ok(Self { settings, step: 0, kept, counter: None })
    }

    /// The share of the moments of all parameters that is kept.
    pub fn share(&self, parameters: &[Parameter]) -> f64 {
        let all = trained(parameters).map(|(_, of)| self.settings.moments(of).len() * of.tensor.numel());
        let own = |kept: &Kept| kept.moments.named().iter().map(|(_, tensor)| tensor.numel()).sum::<usize>();
        self.kept.iter().map(own).sum::<usize>() as f64 / all.sum::<usize>().max(1) as f64
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

    /// One update from gradients multiplied by `scale`: those that the parameters have, or the share of what is kept.
    pub fn update(
        &mut self,
        parameters: &mut [Parameter],
        lr: f64,
        scale: f64,
        share: Option<&Share>,
    ) -> Result<(), ModelError> {
        self.step += 1;
        let Optimizer { adamw, muon, .. } = self.settings;
        let corrections = (1.0 - adamw.beta1.powf(self.step as f64), 1.0 - adamw.beta2.powf(self.step as f64));
        let (step, root) = (lr / corrections.0, 1.0 / corrections.1.sqrt());
        for (at, Kept { parameter, trained, range, moments }) in self.kept.iter_mut().enumerate() {
            let parameter = &parameters[*parameter];
            let grad = match share {
                Some(share) => share.gradients[at].shallow_clone(),
                None => parameter.tensor.f_grad()?,
            };
            if !grad.defined() {
                continue;
            }
            let decay = if parameter.is_matrix() { 1.0 - lr * adamw.weight_decay } else { 1.0 };
            let first = range.as_ref().map_or(0, |range| range.start as u64);
            let noise = Noise { step: self.step, parameter: *trained as u64, first };
            let mut weight = match share.and_then(|share| share.weights.as_ref()) {
                Some(weights) => weights[at].shallow_clone(),
                None => flat(&parameter.tensor.f_detach()?, range.as_ref())?,
            };
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

    /// Counts an update that [`OptimizerState::update_on_device`] will do: who learns that it was skipped takes it back.
    pub fn begin_on_device(&mut self, device: tch::Device) -> Result<(), ModelError> {
        self.step += 1;
        if self.counter.is_none() {
            self.counter = Some(Tensor::f_full([] as [i64; 0], (self.step - 1) as f64, (Kind::Float, device))?);
        }
        Ok(())
    }

    /// One update from gradients divided by `divisor`, unless `skip` is 1: both are fp32 numbers on the device. They are those that the
    /// parameters have, or those of what is kept, flat. Nothing is read back, and nothing changes but tensors, so that it can be recorded.
    ///
    /// # Errors
    /// When it is not [`OptimizerState::is_fused`], or was not begun.
    pub fn update_on_device(
        &self,
        parameters: &[Parameter],
        lr: &Rate,
        divisor: &Tensor,
        skip: &Tensor,
        gradients: Option<&[Tensor]>,
    ) -> Result<(), ModelError> {
        let missing = || ModelError::Torch("an update that was not begun".to_owned());
        let mut done = self.counter.as_ref().ok_or_else(missing)?.shallow_clone();
        let step = done.f_add_scalar(1.0)?;
        let (mut matrices, mut others) = (Trained::default(), Trained::default());
        for (at, Kept { parameter, range, moments, .. }) in self.kept.iter().enumerate() {
            let parameter = &parameters[*parameter];
            let gradient = match gradients {
                Some(gradients) => gradients[at].shallow_clone(),
                None => parameter.tensor.f_grad()?,
            };
            let Moments::AdamW { first, second } = moments else {
                return Err(ModelError::Torch("a fused update of parameters that AdamW does not train".to_owned()));
            };
            if gradient.defined() {
                let group = if parameter.is_matrix() { &mut matrices } else { &mut others };
                group.weights.push(flat(&parameter.tensor.f_detach()?, range.as_ref())?);
                group.gradients.push(gradient);
                group.first.push(first.shallow_clone());
                group.second.push(second.shallow_clone());
            }
        }
        let (flags, adamw) = (Flags { step: &step, divisor, skip }, self.settings.adamw);
        many::adamw(&matrices, &flags, adamw, lr, adamw.weight_decay)?;
        many::adamw(&others, &flags, adamw, lr, 0.0)?;
        done.f_copy_(&step.f_sub(skip)?)?;
        Ok(())
    }

    /// What the file holds, by the names of its tensors: the moments and, where the model's file has something else, the weights.
    fn listed<'a>(&self, parameters: &'a [Parameter], weights: bool) -> BTreeMap<String, Listed<'a>> {
        let mut listed = BTreeMap::new();
        for (number, parameter) in trained(parameters) {
            let names = self.settings.moments(parameter).iter().enumerate().map(|(at, name)| (*name, Some(at)));
            let mut start = 0;
            for part in &parameter.leaf.parts {
                let range = start..start + part.shape.iter().product::<i64>() as usize;
                start = range.end;
                for (name, moment) in names.clone().chain(weights.then_some(("weight", None))) {
                    let piece = Piece { parameter: number, range: range.clone() };
                    listed.insert(format!("{name}.{}", part.name), Listed { part, piece, moment });
                }
            }
        }
        listed
    }

    /// The kept elements that are these, of a moment or of the weights, each flat and with where they begin among them.
    fn elements(
        &self,
        Piece { parameter, range }: &Piece,
        moment: Option<usize>,
        weights: Option<&[Tensor]>,
    ) -> Result<Vec<(usize, Tensor)>, ModelError> {
        let mut all = Vec::new();
        let kept = self.kept.iter().enumerate().filter(|(_, kept)| kept.parameter == *parameter);
        for (at, Kept { range: own, moments, .. }) in kept {
            let tensor = match (moment, weights) {
                (Some(moment), _) => moments.named().swap_remove(moment).1,
                (None, Some(weights)) => &weights[at],
                (None, None) => continue,
            };
            let own = own.clone().unwrap_or(0..tensor.numel());
            let (from, to) = (range.start.max(own.start), range.end.min(own.end));
            if from < to {
                all.push((from - range.start, flat(tensor, Some(&(from - own.start..to - own.start)))?));
            }
        }
        Ok(all)
    }

    fn kind(&self, listed: &Listed) -> Kind {
        if listed.moment.is_some() { self.settings.state.torch() } else { Kind::Float }
    }

    fn notes(&self) -> BTreeMap<String, String> {
        let mut notes =
            BTreeMap::from([("format".to_owned(), "pt".to_owned()), ("step".to_owned(), self.step.to_string())]);
        // AdamW's is without: it was the only one.
        if self.settings.muon.is_some() {
            notes.insert("optimizer".to_owned(), self.settings.name().to_owned());
        }
        notes
    }

    /// What its file holds, where all moments are kept: they, named after the files' tensors, the step and, if asked, the weights.
    pub fn content(&self, parameters: &[Parameter], weights: bool) -> Result<TensorFile, ModelError> {
        let mut tensors = BTreeMap::new();
        for (name, listed) in self.listed(parameters, weights) {
            let values = match listed.moment {
                None => flat(&parameters[listed.piece.parameter].tensor, Some(&listed.piece.range))?,
                moment => {
                    let missing = || ModelError::Ranks(format!("the elements of `{name}` are kept by several ranks"));
                    self.elements(&listed.piece, moment, None)?.pop().ok_or_else(missing)?.1
                }
            };
            let kind = self.kind(&listed);
            tensors.insert(name, (values.f_view(listed.part.shape.as_slice())?, kind));
        }
        Ok(TensorFile { name: OPTIMIZER, tensors, notes: self.notes(), whole: false })
    }

    /// Where the processes keep pieces: gives one of them some elements of a tensor of the file. All processes come here.
    fn show(
        &self,
        parameters: &[Parameter],
        listed: &Listed,
        range: &Range<usize>,
        (reducer, to): (&dyn Reducer, usize),
        put: &mut Put<'_>,
    ) -> Result<(), ModelError> {
        let (weights, begin) = (reducer.weights()?, listed.piece.range.start);
        let wanted = Piece { range: begin + range.start..begin + range.end, ..listed.piece };
        if listed.moment.is_none() && weights.is_none() {
            let whole = || flat(&parameters[wanted.parameter].tensor, Some(&wanted.range));
            return if reducer.rank() == to { put(&whole()?) } else { Ok(()) };
        }
        let own = |piece: &Piece| {
            let missing = || ModelError::Ranks(format!("elements of `{}` that no rank keeps", listed.part.name));
            Ok(self.elements(piece, listed.moment, weights.as_deref())?.pop().ok_or_else(missing)?.1)
        };
        reducer.show(to, &wanted, self.kind(listed), &own, put)
    }

    /// Where the processes keep pieces: writes the content of [`OptimizerState::content`]. All processes come here; as [`write_together`].
    pub fn write(
        &self,
        target: &Target,
        parameters: &[Parameter],
        weights: bool,
        reducer: &dyn Reducer,
    ) -> Result<Vec<SavedFile>, ModelError> {
        let listed = self.listed(parameters, weights);
        let shapes =
            listed.iter().map(|(name, one)| (name.clone(), (one.part.shape.clone(), self.kind(one)))).collect();
        write_together((target, OPTIMIZER), &shapes, &self.notes(), reducer, &|name, range, to, put| {
            listed.get(name).map_or(Ok(()), |listed| self.show(parameters, listed, range, (reducer, to), put))
        })
    }

    /// Reads files with that content, of the moments only those that are kept, and of the weights, where they are in it, those that this
    /// process `keeps`.
    pub fn load(
        &mut self,
        dir: &Path,
        parameters: &[Parameter],
        weights: bool,
        keeps: Option<&[Tensor]>,
    ) -> Result<(), ModelError> {
        let files = TensorFiles::open_named(dir, OPTIMIZER)?;
        let path = files.origin.clone();
        let wrong = |detail: String| ModelError::OptimizerState { file: path.clone(), detail };
        let (found, wanted) = (files.note("optimizer").unwrap_or(ADAMW).to_owned(), self.settings.name());
        if found != wanted {
            return Err(ModelError::OtherOptimizer { file: path, found, wanted });
        }
        let step = files.note("step").and_then(|step| step.parse().ok());
        let step = step.ok_or_else(|| wrong("its metadata has no `step`".to_owned()))?;
        let listed = self.listed(parameters, weights);
        for (name, Listed { part, piece, moment }) in &listed {
            let places = match (moment, keeps) {
                (None, None) => vec![(0, flat(&parameters[piece.parameter].tensor.f_detach()?, Some(&piece.range))?)],
                (moment, keeps) => self.elements(piece, *moment, keeps)?,
            };
            let missing = || wrong(format!("tensor `{name}` is missing"));
            // Of a tensor that others keep, too: whether it is there.
            _ = files.get_part(name, &part.shape, 0..0)?.ok_or_else(missing)?;
            for (begin, mut place) in places {
                let found = files.get_part(name, &part.shape, begin..begin + place.numel())?;
                place.f_copy_(&found.ok_or_else(missing)?)?;
            }
        }
        let all = files.names().count();
        if all != listed.len() {
            return Err(wrong(format!("found {all} tensors, wanted {}", listed.len())));
        }
        (self.step, self.counter) = (step, None);
        Ok(())
    }
}

/// Elements of a tensor as they lie in memory; the tensor itself where none are said.
fn flat(tensor: &Tensor, range: Option<&Range<usize>>) -> Result<Tensor, ModelError> {
    let Some(range) = range else { return Ok(tensor.shallow_clone()) };
    Ok(tensor.f_view(-1)?.f_narrow(0, range.start as i64, range.len() as i64)?)
}
