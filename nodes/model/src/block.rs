//! One block of the decoder, and the names of its parts in a family.

use tch::Tensor;

use crate::config::{HeadNorm, Layer, ModelConfig, NormKind, Norms, Residual};
use crate::error::ModelError;
use crate::experts::Experts;
use crate::family::Names;
use crate::layers::{FeedForward, HeadNorms, Linear, Norm};
use crate::parameter::{Init, Leaf, Matrices};
use crate::weight::Weight;

/// Gives the tensor of a leaf; called once per leaf in a fixed order.
pub(crate) type Take<'a> = dyn FnMut(Leaf) -> Result<Tensor, ModelError> + 'a;

/// Attention and feed-forward, and the norms before and behind them.
#[derive(Debug)]
pub(crate) struct Block {
    /// What its attention has of its own.
    pub layer: Layer,
    pub attention_norm: Option<Norm>,
    pub qkv: Linear,
    /// Norms of queries and keys.
    pub head_norms: Option<HeadNorms>,
    pub output: Linear,
    pub attention_after: Option<Norm>,
    pub feed_forward_norm: Option<Norm>,
    pub feed_forward: FeedForward,
    pub feed_forward_after: Option<Norm>,
}

impl Block {
    /// Its linear maps.
    pub fn maps(&self) -> impl Iterator<Item = &Linear> {
        [&self.qkv, &self.output].into_iter().chain(self.feed_forward.maps())
    }

    /// Everything that a product reads.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        let experts = self.feed_forward.experts().into_iter().flat_map(Experts::weights);
        self.maps().flat_map(Linear::weights).chain(experts)
    }

    /// Keeps all of it rounded from now on.
    pub fn round(&mut self) -> Result<(), ModelError> {
        self.maps_mut().try_for_each(Linear::round)?;
        self.feed_forward.experts_mut().into_iter().flat_map(Experts::weights_mut).try_for_each(Weight::round)
    }

    /// Its linear maps, to be changed.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.qkv, &mut self.output].into_iter().chain(self.feed_forward.maps_mut())
    }

    /// The same tensors.
    pub fn share(&self) -> Self {
        let norm = |norm: &Option<Norm>| norm.as_ref().map(Norm::share);
        Self {
            layer: self.layer,
            attention_norm: norm(&self.attention_norm),
            qkv: self.qkv.share(),
            head_norms: self.head_norms.as_ref().map(HeadNorms::share),
            output: self.output.share(),
            attention_after: norm(&self.attention_after),
            feed_forward_norm: norm(&self.feed_forward_norm),
            feed_forward: self.feed_forward.share(),
            feed_forward_after: norm(&self.feed_forward_after),
        }
    }
}

/// Asks for the parts of a model by the names of its family.
pub(crate) struct Parts<'a, 't> {
    pub config: &'a ModelConfig,
    pub names: &'static Names,
    pub take: &'a mut Take<'t>,
}

impl Parts<'_, '_> {
    /// A norm over the hidden size.
    pub fn norm(&mut self, name: &str) -> Result<Norm, ModelError> {
        let (shape, gain) = (vec![self.config.hidden_size as i64], self.gain());
        let weight = (self.take)(Leaf::new(gain, [(format!("{name}.weight"), shape.clone())]))?;
        let bias = match self.config.norm {
            NormKind::Rms => None,
            NormKind::Layer => Some((self.take)(Leaf::new(Init::Zero, [(format!("{name}.bias"), shape)]))?),
        };
        let (kind, eps, offset) = (self.config.norm, self.config.norm_eps, self.config.norm_offset);
        Ok(Norm { kind, weight, bias, eps, offset })
    }

    /// What a norm's weight begins with.
    fn gain(&self) -> Init {
        if self.config.norm_offset { Init::Zero } else { Init::One }
    }

    /// A norm of `heads` heads of queries or keys.
    fn head_norm(&mut self, over: HeadNorm, name: &str, heads: usize) -> Result<Norm, ModelError> {
        let d = self.config.head_dim;
        let part = |name: &str, size: usize| (format!("{name}.weight"), vec![size as i64]);
        let parts = match over {
            HeadNorm::Shared => vec![part(name, d)],
            HeadNorm::Whole => vec![part(name, heads * d)],
            HeadNorm::Each => (0..heads).map(|head| part(&name.replace("{head}", &head.to_string()), d)).collect(),
        };
        let leaf = Leaf::new(self.gain(), parts);
        let weight = (self.take)(leaf)?;
        let kind = if over == HeadNorm::Each { NormKind::Layer } else { NormKind::Rms };
        Ok(Norm { kind, weight, bias: None, eps: self.config.norm_eps, offset: self.config.norm_offset })
    }

    /// A matrix from `input` columns to those of all parts, each of which is a tensor of the files. `sizes` are the columns of the
    /// matrices that it stands for.
    fn linear(
        &mut self,
        init: Init,
        input: i64,
        parts: &[(String, i64)],
        sizes: &[i64],
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let in_first = self.names.in_first;
        let shape = |out: i64| if in_first { vec![input, out] } else { vec![out, input] };
        let weights = parts.iter().map(|(name, out)| (format!("{name}.weight"), shape(*out)));
        let matrices = Matrices { dimension: i64::from(in_first), sizes: sizes.to_vec() };
        let weight = (self.take)(Leaf::of_matrices(init, weights, matrices))?;
        let biases = parts.iter().map(|(name, out)| (format!("{name}.bias"), vec![*out]));
        let bias = if bias { Some((self.take)(Leaf::new(Init::Zero, biases))?) } else { None };
        Ok(Linear { weight: weight.into(), bias: bias.map(Weight::from), in_first, adapter: None })
    }

    /// Block `layer`.
    pub fn block(&mut self, layer: usize) -> Result<Block, ModelError> {
        let (config, names) = (self.config, self.names);
        let at = |part: &str| names.of_layer(layer, part);
        let (d, f) = (config.hidden_size as i64, config.intermediate_size as i64);
        let (q, kv) = ((config.heads * config.head_dim) as i64, (config.kv_heads * config.head_dim) as i64);
        let (before, after) = (config.norms != Norms::After, config.norms != Norms::Before);
        let attention_norm = self.norm_if(before, &at(names.attention_norm))?;
        let qkv = match names.qkv {
            [one] => vec![(at(one), q + 2 * kv)],
            three => three.iter().zip([q, kv, kv]).map(|(name, out)| (at(name), out)).collect(),
        };
        // Head by head they are no matrices of their own.
        let sizes: &[i64] = if names.qkv_by_head { &[q + 2 * kv] } else { &[q, kv, kv] };
        let qkv = self.linear(Init::Normal, d, &qkv, sizes, config.qkv_bias)?;
        let head_norms = match config.qk_norm {
            None => None,
            Some(over) => {
                let q = self.head_norm(over, &at(names.q_norm), config.heads)?;
                let k = self.head_norm(over, &at(names.k_norm), config.kv_heads)?;
                Some(HeadNorms { over, q, k })
            }
        };
        let output = self.linear(Init::Residual, q, &[(at(names.output), d)], &[d], config.attention_output_bias)?;
        let attention_after = self.norm_if(after, &at(names.attention_after))?;
        let own = before && config.residual != Residual::ParallelOneNorm;
        let feed_forward_norm = self.norm_if(own, &at(names.feed_forward_norm))?;
        let feed_forward = self.feed_forward(layer, d, f)?;
        let feed_forward_after = self.norm_if(after, &at(names.feed_forward_after))?;
        Ok(Block {
            layer: config.each[layer],
            attention_norm,
            qkv,
            head_norms,
            output,
            attention_after,
            feed_forward_norm,
            feed_forward,
            feed_forward_after,
        })
    }

    fn norm_if(&mut self, there: bool, name: &str) -> Result<Option<Norm>, ModelError> {
        if there { self.norm(name).map(Some) } else { Ok(None) }
    }

    fn feed_forward(&mut self, layer: usize, d: i64, f: i64) -> Result<FeedForward, ModelError> {
        let (config, names) = (self.config, self.names);
        if let (Some(mixture), Some(names)) = (config.experts_of(layer), &names.experts) {
            return Ok(FeedForward::Experts(self.experts(layer, mixture, names)?));
        }
        let at = |part: &str| names.of_layer(layer, part);
        let (inner, sizes) = match (config.gated, names.inner) {
            (true, [one]) => (vec![(at(one), 2 * f)], vec![f, f]),
            (true, both) => (both.iter().map(|name| (at(name), f)).collect(), vec![f, f]),
            (false, names) => (names.last().map(|name| (at(name), f)).into_iter().collect(), vec![f]),
        };
        let up = self.linear(Init::Normal, d, &inner, &sizes, config.mlp_bias)?;
        let down = self.linear(Init::Residual, f, &[(at(names.down), d)], &[d], config.mlp_bias)?;
        Ok(if config.gated { FeedForward::Gated { gate_up: up, down } } else { FeedForward::Plain { up, down } })
    }
}
