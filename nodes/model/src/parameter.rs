//! Parameters: the leaf tensors of the computation, and the Hugging Face tensors that each of them contains.
//!
//! Queries, keys and values are one leaf (one matrix product instead of three), and so are the gate and up
//! projections. In files they remain the separate tensors that other programs expect: a leaf is the concatenation of
//! its parts along dimension 0.

use std::f64::consts::PI;
use std::fmt::{Debug, Formatter};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use difflow_diffusion::keyed;
use rand::Rng;
use tch::{Kind, Tensor};

use crate::error::ModelError;

/// How a leaf starts when there are no pretrained weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Init {
    /// Normal with the configuration's standard deviation.
    Normal,
    /// Normal, divided by √(2·layers): the matrices that write into the residual stream (GPT-2).
    Residual,
    One,
    Zero,
}

/// One tensor of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub name: String,
    pub shape: Vec<i64>,
}

/// The matrices of a hidden layer that a leaf contains, side by side along one dimension: queries, keys and values are three, however
/// they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Matrices {
    pub dimension: i64,
    /// Size of each along that dimension.
    pub sizes: Vec<i64>,
}

/// Description of one leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub parts: Vec<Part>,
    pub init: Init,
    /// Rows are tokens: the leaf grows with the vocabulary.
    pub vocabulary: bool,
    /// `None` for everything that is no hidden matrix: embeddings, positions, the head, norms, biases, and a plug-in's parameters.
    pub matrices: Option<Matrices>,
    /// Part of an adapter, not of the base model.
    pub adapter: bool,
    /// Of experts, or of what chooses between them: nothing that an adapter changes.
    pub routed: bool,
    /// Names of the parts before a recipe changed them.
    pub own_names: Vec<String>,
}

impl Leaf {
    pub fn new(init: Init, parts: impl IntoIterator<Item = (String, Vec<i64>)>) -> Self {
        let parts: Vec<Part> = parts.into_iter().map(|(name, shape)| Part { name, shape }).collect();
        let own_names = parts.iter().map(|part| part.name.clone()).collect();
        Self { init, parts, vocabulary: false, matrices: None, adapter: false, routed: false, own_names }
    }

    /// Hidden matrices.
    pub fn of_matrices(init: Init, parts: impl IntoIterator<Item = (String, Vec<i64>)>, matrices: Matrices) -> Self {
        Self { matrices: Some(matrices), ..Self::new(init, parts) }
    }

    /// A matrix with a row for each token.
    pub fn of_tokens(name: String, shape: Vec<i64>) -> Self {
        Self { vocabulary: true, ..Self::new(Init::Normal, [(name, shape)]) }
    }

    /// How many values it has.
    pub fn values(&self) -> u64 {
        self.shape().iter().fold(1, |values: u64, &size| values.saturating_mul(size as u64))
    }

    /// Shape of the stacked parts.
    pub fn shape(&self) -> Vec<i64> {
        let mut shape = self.parts[0].shape.clone();
        shape[0] = self.parts.iter().map(|part| part.shape[0]).sum();
        shape
    }
}

/// Gives some elements of a leaf, flat and in fp32.
pub(crate) struct Source(Box<dyn Fn(Range<usize>) -> Result<Tensor, ModelError> + Send + Sync>);

impl Source {
    pub fn new(elements: impl Fn(Range<usize>) -> Result<Tensor, ModelError> + Send + Sync + 'static) -> Self {
        Self(Box::new(elements))
    }

    pub fn elements(&self, range: Range<usize>) -> Result<Tensor, ModelError> {
        (self.0)(range)
    }

    /// Its first `count` elements, and then these.
    pub fn followed_by(self, count: usize, more: Tensor) -> Self {
        // A tensor must not be shared between threads.
        let more = Mutex::new(more);
        Self::new(move |range| {
            let (before, behind) =
                (range.start.min(count)..range.end.min(count), range.start.max(count)..range.end.max(count));
            let rest = more.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = rest.f_narrow(0, (behind.start - count) as i64, behind.len() as i64)?;
            Ok(Tensor::f_cat(&[self.elements(before)?, rest], 0)?)
        })
    }
}

impl Debug for Source {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        f.write_str("Source")
    }
}

/// A leaf and its values: fp32, contiguous, on the model's device.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub leaf: Leaf,
    pub tensor: Tensor,
    /// Where the values are read from while the tensor has no memory.
    pub source: Option<Source>,
    /// Element type of each part in the files that it was read from.
    pub stored: Vec<Kind>,
    /// Whether a learner changes it.
    pub trainable: bool,
}

impl Parameter {
    /// Weight decay and shrinking apply to matrices only, not to norms and biases.
    pub fn is_matrix(&self) -> bool {
        self.leaf.parts[0].shape.len() >= 2
    }

    /// Some of its values, flat.
    pub fn elements(&self, range: Range<usize>) -> Result<Tensor, ModelError> {
        match &self.source {
            Some(source) => source.elements(range),
            None => Ok(self.tensor.f_detach()?.f_view(-1)?.f_narrow(0, range.start as i64, range.len() as i64)?),
        }
    }

    /// The view of each hidden matrix in a tensor that has this leaf's shape; none where the leaf has no hidden matrices.
    pub fn matrices(&self, of: &Tensor) -> Result<Vec<Tensor>, ModelError> {
        let Some(Matrices { dimension, sizes }) = &self.leaf.matrices else { return Ok(Vec::new()) };
        let mut start = 0;
        let mut views = Vec::with_capacity(sizes.len());
        for &size in sizes {
            views.push(of.f_narrow(*dimension, start, size)?);
            start += size;
        }
        Ok(views)
    }

    /// The view of each part in a tensor that has this leaf's shape.
    pub fn split(&self, of: &Tensor) -> Result<Vec<(&Part, Tensor)>, ModelError> {
        let mut start = 0;
        let mut views = Vec::with_capacity(self.leaf.parts.len());
        for part in &self.leaf.parts {
            views.push((part, of.f_narrow(0, start, part.shape[0])?));
            start += part.shape[0];
        }
        Ok(views)
    }
}

/// Values of a leaf of a new model. Each part has its own stream of random numbers, keyed by seed and its place in the
/// model, so a part does not depend on what was drawn before it.
pub(crate) fn initial(leaf: &Leaf, seed: u64, index: u64, std: f64, layers: usize) -> Result<Tensor, ModelError> {
    let std = match leaf.init {
        Init::Normal => std,
        Init::Residual => std / (2.0 * layers as f64).sqrt(),
        Init::One => return Ok(Tensor::f_ones(leaf.shape(), (Kind::Float, tch::Device::Cpu))?),
        Init::Zero => return Ok(Tensor::f_zeros(leaf.shape(), (Kind::Float, tch::Device::Cpu))?),
    };
    let count = leaf.shape().iter().product::<i64>() as usize;
    // config.json may claim any size; a claim that no memory can hold must not end the process.
    let mut values: Vec<f32> = Vec::new();
    values.try_reserve_exact(count).map_err(|e| ModelError::OutOfMemory { detail: e.to_string() })?;
    for (place, part) in leaf.parts.iter().enumerate() {
        let mut rng = keyed::rng(seed, "init", index, place as u64);
        values.extend(normals(&mut rng, part.shape.iter().product::<i64>() as usize).map(|z| (z * std) as f32));
    }
    Ok(Tensor::f_from_slice(&values)?.f_reshape(leaf.shape())?)
}

/// `n` standard normal numbers (Box-Muller, two uniforms each).
pub(crate) fn normals(rng: &mut impl Rng, n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(|_| {
        // 1 − u is in (0, 1]: the logarithm stays finite.
        let radius = (-2.0 * (1.0 - keyed::uniform(rng)).ln()).sqrt();
        radius * (2.0 * PI * keyed::uniform(rng)).cos()
    })
}
