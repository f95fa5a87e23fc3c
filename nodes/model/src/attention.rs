//! Attention of a forward: the positions of its tokens, which positions see which in each layer, and the right
//! kernel.
//!
//! A causal or full pattern runs on torch's fused kernel without a bias; everything else uses an additive bias of 0
//! and −∞. Our CPU kernel takes the visibility directly. The diagonal is visible in every pattern, so no row of the
//! softmax is empty and padding never gives NaN.

use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::cuda::Documents;
use crate::error::ModelError;
use crate::input::Layout;
use crate::later::upload;
use crate::pattern::Pattern;
use crate::visibility::{Named, Visibility};

/// What the fused kernel is asked for.
#[derive(Debug)]
pub(crate) enum Kernel {
    Causal,
    Full,
    /// Additive bias, `[1 or B, 1, L, L]`.
    Bias(Tensor),
    /// Causal or full inside documents, on a GPU.
    Documents(Documents),
    /// Our own kernel on the CPU.
    Fused(Arc<Visibility>),
}

impl Kernel {
    fn new(visibility: Visibility, target: Target) -> Result<Self, ModelError> {
        if target.fused {
            return Ok(Self::Fused(Arc::new(visibility)));
        }
        let documents = visibility.documents().filter(|_| target.documents);
        Ok(match (visibility.named(), documents) {
            (Some(Named::Causal), _) if !target.explicit => Self::Causal,
            (Some(Named::Full), _) => Self::Full,
            (_, Some((named, all))) => {
                let (causal, length) = (named == Named::Causal, visibility.length());
                Self::Documents(Documents::new(all, causal, length, target.fixed_shapes, target.device)?)
            }
            (_, None) => Self::Bias(additive(&visibility.tensor(target.device)?, target.kind)?),
        })
    }

    /// The same, without a copy of the bias.
    pub fn share(&self) -> Self {
        match self {
            Self::Causal => Self::Causal,
            Self::Full => Self::Full,
            Self::Bias(bias) => Self::Bias(bias.shallow_clone()),
            Self::Documents(documents) => Self::Documents(documents.clone()),
            Self::Fused(visibility) => Self::Fused(visibility.clone()),
        }
    }
}

/// Where attention is computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub kind: Kind,
    pub device: tch::Device,
    /// Whether our own CPU kernel may be used.
    pub fused: bool,
    /// Whether documents may be told to a kernel instead of by a bias.
    pub documents: bool,
    /// Whether everything but full attention is to be a bias.
    pub explicit: bool,
    /// As [`crate::Arithmetic`]'s.
    pub fixed_shapes: bool,
}

/// Position ids of a row of the input, the same for all rows.
#[derive(Debug, Clone, Default)]
pub(crate) enum Positions {
    /// 0, 1, 2, …
    #[default]
    Counted,
    Given(Arc<[u32]>),
}

impl Positions {
    /// The id of the token at `at`.
    #[inline(always)]
    pub fn of(&self, at: usize) -> usize {
        match self {
            Self::Counted => at,
            Self::Given(ids) => ids[at] as usize,
        }
    }

    /// One more than the largest id in a row of `length` tokens: the length that rotary embeddings see.
    pub fn span(&self, length: usize) -> usize {
        match self {
            Self::Counted => length,
            Self::Given(ids) => ids.iter().max().map_or(0, |&id| id as usize + 1),
        }
    }
}

/// A pattern made ready for one batch.
#[derive(Debug)]
pub(crate) struct Attention {
    pub positions: Positions,
    /// The position ids `[1, L]` on the device, where they are not counted.
    pub index: Option<Tensor>,
    /// A kernel for each window that a layer has.
    kernels: Vec<(Option<usize>, Kernel)>,
    windows: Vec<Option<usize>>,
}

/// The attention of one layer.
#[derive(Debug)]
pub(crate) struct LayerAttention {
    pub kernel: Kernel,
    pub positions: Positions,
    pub index: Option<Tensor>,
}

impl LayerAttention {
    /// The same, without copies.
    pub fn share(&self) -> Self {
        let index = self.index.as_ref().map(Tensor::shallow_clone);
        Self { kernel: self.kernel.share(), positions: self.positions.clone(), index }
    }
}

impl Attention {
    /// `windows` are the reaches of sliding-window attention to the left, by layer.
    pub fn new(
        pattern: &Pattern,
        layout: Layout,
        windows: &[Option<usize>],
        target: Target,
    ) -> Result<Self, ModelError> {
        let mut kernels: Vec<(Option<usize>, Kernel)> = Vec::new();
        for &window in windows {
            if kernels.iter().all(|(known, _)| *known != window) {
                kernels.push((window, Kernel::new(Visibility::new(pattern, layout, window)?, target)?));
            }
        }
        let (positions, index) = match layout.positions() {
            None => (Positions::Counted, None),
            Some(ids) => {
                let wide: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
                let index = upload(&wide, target.device)?.f_view((1, -1))?;
                (Positions::Given(ids.into()), Some(index))
            }
        };
        Ok(Self { positions, index, kernels, windows: windows.to_vec() })
    }

    /// The tensors that a forward reads, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let of_kernels = self.kernels.iter().filter_map(|(_, kernel)| match kernel {
            Kernel::Bias(bias) => Some(bias),
            Kernel::Documents(documents) => Some(documents.bounds()),
            Kernel::Causal | Kernel::Full | Kernel::Fused(_) => None,
        });
        self.index.iter().chain(of_kernels)
    }

    /// What a forward depends on beside the values of those tensors: forwards with the same are the same operations.
    pub fn signature(&self) -> Vec<i64> {
        let of_kernels = self.kernels.iter().flat_map(|(_, kernel)| match kernel {
            Kernel::Causal => vec![0],
            Kernel::Full => vec![1],
            Kernel::Bias(_) => vec![2],
            Kernel::Documents(documents) => [&[3], documents.told().as_slice()].concat(),
            Kernel::Fused(_) => vec![4],
        });
        of_kernels.chain([i64::from(self.index.is_some())]).collect()
    }

    /// That of a layer. Errors if it was made for fewer layers.
    pub fn layer(&self, layer: usize) -> Result<LayerAttention, ModelError> {
        let window = self.windows.get(layer);
        let found = window.and_then(|window| self.kernels.iter().find(|(known, _)| known == window));
        let missing = || ModelError::Torch(format!("attention was made for {} layers", self.windows.len()));
        let kernel = found.ok_or_else(missing)?.1.share();
        let index = self.index.as_ref().map(Tensor::shallow_clone);
        Ok(LayerAttention { kernel, positions: self.positions.clone(), index })
    }
}

/// 0 where visible, −∞ elsewhere. On CUDA the rows are laid out in steps of 8, which the memory-efficient kernel wants.
pub(crate) fn additive(visible: &Tensor, kind: Kind) -> Result<Tensor, ModelError> {
    let mut size = visible.size();
    let columns = size[3];
    if visible.device().is_cuda() {
        size[3] = (columns + 7) / 8 * 8;
    }
    let mut bias = Tensor::f_full(&size, f64::NEG_INFINITY, (kind, visible.device()))?.f_narrow(3, 0, columns)?;
    let _ = bias.f_masked_fill_(visible, 0.0)?;
    Ok(bias)
}
