//! What turns gradients into an update: AdamW, or Muon for the hidden matrices and AdamW for the rest; clipping by the global norm; the
//! state's file in a checkpoint.

mod adamw;
mod muon;
mod state;

use std::collections::BTreeMap;
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

/// Moments of every parameter.
#[derive(Debug)]
pub(crate) struct OptimizerState {
    pub settings: Optimizer,
    /// Updates done.
    pub step: u64,
    /// Of the trained parameters, in their order.
    moments: Vec<Moments>,
    /// The updates done, on the device, which knows first whether one was skipped.
    counter: Option<Tensor>,
}

/// Those that have moments.
fn trained(parameters: &[Parameter]) -> impl Iterator<Item = &Parameter> {
    parameters.iter().filter(|parameter| parameter.trainable)
}

impl OptimizerState {
    pub fn new(settings: Optimizer, parameters: &[Parameter]) -> Result<Self, ModelError> {
        let begun = |parameter: &Parameter| -> Result<Moments, ModelError> {
            let tensor = &parameter.tensor;
            let zeros = || Tensor::f_zeros(tensor.size(), (settings.state.torch(), tensor.device()));
            Ok(match settings.muon {
                Some(_) if parameter.leaf.matrices.is_some() => Moments::Muon { momentum: zeros()? },
                _ => Moments::AdamW { first: zeros()?, second: zeros()? },
            })
        };
        let moments = trained(parameters).map(begun).collect::<Result<_, ModelError>>()?;
        Ok(Self { settings, step: 0, moments, counter: None })
    }

    /// Global norm of the gradients (‖·‖₂ over all parameters). NaN or infinite when a gradient is.
    pub fn grad_norm(&self, parameters: &[Parameter]) -> Result<f64, ModelError> {
        let gradients = parameters.iter().map(|parameter| parameter.tensor.f_grad()).collect::<Result<Vec<_>, _>>()?;
        let gradients: Vec<Tensor> = gradients.into_iter().filter(Tensor::defined).collect();
        let here: Option<Vec<&[f32]>> = gradients.iter().map(values).collect();
        match here {
            Some(here) => Ok(here.into_iter().map(squares).sum::<f64>().sqrt()),
            // Read back once for all.
            None => Ok(many::norm(&gradients)?.f_double_value(&[])?),
        }
    }

    /// One update from gradients multiplied by `scale`.
    pub fn update(&mut self, parameters: &mut [Parameter], lr: f64, scale: f64) -> Result<(), ModelError> {
        self.step += 1;
        let Optimizer { adamw, muon, .. } = self.settings;
        let corrections = (1.0 - adamw.beta1.powf(self.step as f64), 1.0 - adamw.beta2.powf(self.step as f64));
        let (step, root) = (lr / corrections.0, 1.0 / corrections.1.sqrt());
        let trained = parameters.iter_mut().filter(|parameter| parameter.trainable);
        for (number, (parameter, moments)) in trained.zip(&mut self.moments).enumerate() {
            let grad = parameter.tensor.f_grad()?;
            if !grad.defined() {
                continue;
            }
            let decay = if parameter.is_matrix() { 1.0 - lr * adamw.weight_decay } else { 1.0 };
            let noise = Noise { step: self.step, parameter: number as u64 };
            let mut weight = parameter.tensor.f_detach()?;
            match moments {
                Moments::AdamW { first, second } => {
                    let rate = adamw::Rate { settings: adamw, decay, step, root, scale };
                    rate.apply(&mut weight, &grad, first, second, noise)?;
                }
                Moments::Muon { momentum } => {
                    let rate = muon::Rate { settings: muon.unwrap_or_default(), decay, lr, scale };
                    rate.apply(parameter, &mut weight, &grad, momentum, noise)?;
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
        for (parameter, moments) in trained(parameters).zip(&self.moments) {
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
    fn kept<'a>(
        &self,
        parameter: &'a Parameter,
        moments: &'a Moments,
        weights: bool,
    ) -> impl Iterator<Item = (&'static str, &'a Tensor, Kind)> {
        let kind = self.settings.state.torch();
        let weight = weights.then_some(("weight", &parameter.tensor, Kind::Float));
        moments.named().into_iter().map(move |(name, tensor)| (name, tensor, kind)).chain(weight)
    }

    /// What its file holds: the moments, named after the files' tensors, the step and, if asked, the weights.
    pub fn content(&self, parameters: &[Parameter], weights: bool) -> Result<TensorFile, ModelError> {
        let mut tensors = BTreeMap::new();
        for (parameter, moments) in trained(parameters).zip(&self.moments) {
            for (moment, tensor, kind) in self.kept(parameter, moments, weights) {
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
        for (parameter, moments) in trained(parameters).zip(&self.moments) {
            for (moment, tensor, _) in self.kept(parameter, moments, weights) {
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
        (self.step, self.counter) = (step, None);
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
