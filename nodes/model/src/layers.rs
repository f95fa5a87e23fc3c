//! The small parts of a decoder: linear maps, norms and activations.

use tch::{Kind, Tensor};

use crate::adapter::LowRank;
use crate::arithmetic::Arithmetic;
use crate::config::{Activation, HeadNorm, NormKind};
use crate::error::ModelError;
use crate::experts::{Experts, Routed};
use crate::fused;
use crate::host::is_plain;
use crate::shim::attach;
use crate::weight::Weight;

/// y = x·W (+ b), on rows `[N, in]`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub weight: Weight,
    pub bias: Option<Weight>,
    /// True when the weight is stored `[in, out]` (GPT-2's Conv1D), false for `[out, in]`.
    pub in_first: bool,
    /// What an adapter adds.
    pub adapter: Option<LowRank>,
}

impl Linear {
    /// The same tensors.
    pub fn share(&self) -> Self {
        let bias = self.bias.as_ref().map(Weight::share);
        let adapter = self.adapter.as_ref().map(LowRank::share);
        Self { weight: self.weight.share(), bias, in_first: self.in_first, adapter }
    }

    /// Weight and bias.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        std::iter::once(&self.weight).chain(&self.bias)
    }

    /// Keeps weight and bias rounded from now on.
    pub fn round(&mut self) -> Result<(), ModelError> {
        std::iter::once(&mut self.weight).chain(&mut self.bias).try_for_each(Weight::round)
    }

    /// fp32 master weights are cast when the arithmetic is bf16, unless they are kept rounded.
    pub fn apply(&self, x: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        let (x, fp32) = (x.f_to_kind(how.kind())?, how.kind() == Kind::Float);
        let bias = self.bias.as_ref().map(|bias| bias.of(how)).transpose()?;
        let (master, still) = (&self.weight.master, !self.weight.master.requires_grad());
        let fits = |change: &&LowRank| {
            how.kernels && fp32 && still && how.adapter_dropout == 0.0 && change.fits_into_weight(&x)
        };
        if let Some(change) = self.adapter.as_ref().filter(fits) {
            return change.multiply(&x, master, bias.as_ref(), self.in_first);
        }
        let y = if fp32 && master.kind() != Kind::Float {
            self.widened(&x, bias.as_ref())?
        } else {
            self.product(&x, &self.weight.of(how)?, bias.as_ref())?
        };
        match &self.adapter {
            None => Ok(y),
            Some(change) => change.add(&y, &x, how),
        }
    }

    fn product(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, ModelError> {
        Ok(match (self.in_first, bias) {
            (false, bias) => x.f_linear(weight, bias)?,
            (true, Some(bias)) => bias.f_addmm(x, weight)?,
            (true, None) => x.f_mm(weight)?,
        })
    }

    /// The product in fp32 with a weight in bf16 that is not trained. The weight in fp32 is made twice rather than kept.
    fn widened(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let master = self.weight.master.f_detach()?;
        let y = tch::no_grad(|| self.product(x, &master.f_to_kind(Kind::Float)?, bias))?;
        let in_first = self.in_first;
        attach(y, &[x], move |gradient| {
            let weight = master.f_to_kind(Kind::Float)?;
            Ok(vec![Some(gradient.f_mm(&if in_first { weight.f_transpose(0, 1)? } else { weight })?)])
        })
    }
}

/// Normalisation over the last dimension.
#[derive(Debug)]
pub(crate) struct Norm {
    pub kind: NormKind,
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    pub eps: f64,
    /// Values are multiplied by 1 + weight.
    pub offset: bool,
}

impl Norm {
    /// The same tensors.
    pub fn share(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Self { weight: self.weight.shallow_clone(), bias, ..*self }
    }

    /// What values are multiplied by.
    pub fn gain(&self) -> Result<Tensor, ModelError> {
        if self.offset { Ok(self.weight.f_add_scalar(1.0)?) } else { Ok(self.weight.shallow_clone()) }
    }

    pub fn apply(&self, x: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        if how.kernels && self.kind == NormKind::Rms && is_plain(x) {
            return fused::rms_norm(x, &self.gain()?, self.eps);
        }
        self.plain(x)
    }

    /// By torch's operations.
    pub fn plain(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (shape, gain) = (self.weight.size(), self.gain()?);
        Ok(match self.kind {
            NormKind::Layer => x.f_layer_norm(&shape, Some(&gain), self.bias.as_ref(), self.eps, true)?,
            NormKind::Rms => x.f_rms_norm(&shape, Some(&gain), self.eps)?,
        })
    }
}

/// Norms of queries and keys.
#[derive(Debug)]
pub(crate) struct HeadNorms {
    pub over: HeadNorm,
    pub q: Norm,
    pub k: Norm,
}

impl HeadNorms {
    /// The same tensors.
    pub fn share(&self) -> Self {
        Self { over: self.over, q: self.q.share(), k: self.k.share() }
    }

    /// Queries or keys `[N, heads, d]` by their norm, in the kind of the arithmetic.
    pub fn apply(&self, norm: &Norm, heads: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        let heads = heads.f_to_kind(Kind::Float)?.f_contiguous()?;
        let (_, count, size) = heads.size3()?;
        let normed = match self.over {
            HeadNorm::Shared => norm.apply(&heads, how)?,
            HeadNorm::Whole => norm.apply(&heads.f_view((-1, count * size))?, how)?.f_view((-1, count, size))?,
            HeadNorm::Each => {
                let plain = heads.f_layer_norm([size], None::<Tensor>, None::<Tensor>, norm.eps, true)?;
                plain.f_mul(&norm.gain()?.f_view((count, size))?)?
            }
        };
        Ok(normed.f_to_kind(how.kind())?)
    }
}

/// The feed-forward block.
#[derive(Debug)]
pub(crate) enum FeedForward {
    /// down(act(gate(x)) ⊙ up(x)); gate and up are one matrix.
    Gated { gate_up: Linear, down: Linear },
    /// down(act(up(x))).
    Plain { up: Linear, down: Linear },
    /// Some of many gated ones for each token.
    Experts(Experts),
}

/// What a block, or its feed-forward half, makes of rows.
#[derive(Debug)]
pub(crate) struct Passed {
    pub rows: Tensor,
    /// Where there are experts, who computed them.
    pub routed: Option<Routed>,
}

impl FeedForward {
    /// The same tensors.
    pub fn share(&self) -> Self {
        match self {
            Self::Gated { gate_up, down } => Self::Gated { gate_up: gate_up.share(), down: down.share() },
            Self::Plain { up, down } => Self::Plain { up: up.share(), down: down.share() },
            Self::Experts(experts) => Self::Experts(experts.share()),
        }
    }

    /// Its linear maps; experts are none.
    pub fn maps(&self) -> Vec<&Linear> {
        match self {
            Self::Gated { gate_up: up, down } | Self::Plain { up, down } => vec![up, down],
            Self::Experts(_) => Vec::new(),
        }
    }

    /// Its linear maps, to be changed.
    pub fn maps_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Gated { gate_up: up, down } | Self::Plain { up, down } => vec![up, down],
            Self::Experts(_) => Vec::new(),
        }
    }

    /// Its experts, where it has some.
    pub fn experts(&self) -> Option<&Experts> {
        match self {
            Self::Gated { .. } | Self::Plain { .. } => None,
            Self::Experts(experts) => Some(experts),
        }
    }

    /// Its experts, to be changed.
    pub fn experts_mut(&mut self) -> Option<&mut Experts> {
        match self {
            Self::Gated { .. } | Self::Plain { .. } => None,
            Self::Experts(experts) => Some(experts),
        }
    }

    pub fn apply(&self, x: &Tensor, activation: Activation, how: Arithmetic) -> Result<Passed, ModelError> {
        let rows = match self {
            Self::Gated { gate_up, down } => down.apply(&gated(&gate_up.apply(x, how)?, activation, how)?, how)?,
            Self::Plain { up, down } => down.apply(&activate(&up.apply(x, how)?, activation)?, how)?,
            Self::Experts(experts) => return experts.apply(x, activation, how),
        };
        Ok(Passed { rows, routed: None })
    }
}

/// act(gate) ⊙ up of rows `[N, 2F]`.
pub(crate) fn gated(both: &Tensor, activation: Activation, how: Arithmetic) -> Result<Tensor, ModelError> {
    if how.kernels && activation == Activation::Silu {
        return fused::swiglu(&both.f_to_kind(Kind::Float)?);
    }
    let width = both.size2()?.1 / 2;
    let parts = both.f_split(width, 1)?;
    Ok(activate(&parts[0], activation)?.f_mul(&parts[1])?)
}

fn activate(x: &Tensor, activation: Activation) -> Result<Tensor, ModelError> {
    Ok(match activation {
        Activation::Silu => x.f_silu()?,
        Activation::GeluTanh => x.f_gelu("tanh")?,
        Activation::Gelu => x.f_gelu("none")?,
        Activation::Relu => x.f_relu()?,
    })
}
