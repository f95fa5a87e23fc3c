//! One block of the decoder, and the names of its parts in a family.

use tch::Tensor;

use crate::config::{ModelConfig, NormKind};
use crate::error::ModelError;
use crate::family::Names;
use crate::layers::{FeedForward, Linear, Norm};
use crate::parameter::{Init, Leaf, Matrices};
use crate::weight::Weight;

/// Gives the tensor of a leaf; called once per leaf in a fixed order.
pub(crate) type Take<'a> = dyn FnMut(Leaf) -> Result<Tensor, ModelError> + 'a;

/// Attention and feed-forward, each behind its norm.
#[derive(Debug)]
pub(crate) struct Block {
    pub attention_norm: Norm,
    pub qkv: Linear,
    /// RMS norms over each head of queries and keys.
    pub head_norms: Option<(Norm, Norm)>,
    pub output: Linear,
    pub feed_forward_norm: Norm,
    pub feed_forward: FeedForward,
}

impl Block {
    /// Its linear maps.
    pub fn maps(&self) -> impl Iterator<Item = &Linear> {
        [&self.qkv, &self.output].into_iter().chain(self.feed_forward.maps())
    }

    /// Its linear maps, to be changed.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.qkv, &mut self.output].into_iter().chain(self.feed_forward.maps_mut())
    }

    /// The same tensors.
    pub fn share(&self) -> Self {
        Self {
            attention_norm: self.attention_norm.share(),
            qkv: self.qkv.share(),
            head_norms: self.head_norms.as_ref().map(|(q, k)| (q.share(), k.share())),
            output: self.output.share(),
            feed_forward_norm: self.feed_forward_norm.share(),
            feed_forward: self.feed_forward.share(),
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
        let shape = vec![self.config.hidden_size as i64];
        let weight = (self.take)(Leaf::new(Init::One, [(format!("{name}.weight"), shape.clone())]))?;
        let bias = match self.config.norm {
            NormKind::Rms => None,
            NormKind::Layer => Some((self.take)(Leaf::new(Init::Zero, [(format!("{name}.bias"), shape)]))?),
        };
        Ok(Norm { kind: self.config.norm, weight, bias, eps: self.config.norm_eps })
    }

    /// A norm over each head of queries or keys.
    fn head_norm(&mut self, name: &str) -> Result<Norm, ModelError> {
        let part = (format!("{name}.weight"), vec![self.config.head_dim as i64]);
        let weight = (self.take)(Leaf::new(Init::One, [part]))?;
        Ok(Norm { kind: NormKind::Rms, weight, bias: None, eps: self.config.norm_eps })
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
        let attention_norm = self.norm(&at(names.attention_norm))?;
        let qkv = match names.qkv {
            [one] => vec![(at(one), q + 2 * kv)],
            three => three.iter().zip([q, kv, kv]).map(|(name, out)| (at(name), out)).collect(),
        };
        let qkv = self.linear(Init::Normal, d, &qkv, &[q, kv, kv], config.qkv_bias)?;
        let head_norms = if config.qk_norm {
            Some((self.head_norm(&at(names.q_norm))?, self.head_norm(&at(names.k_norm))?))
        } else {
            None
        };
        let output = self.linear(Init::Residual, q, &[(at(names.output), d)], &[d], config.attention_output_bias)?;
        let feed_forward_norm = self.norm(&at(names.feed_forward_norm))?;
        let (gate, up) = ((at(names.gate), f), (at(names.up), f));
        let inner = if config.gated { vec![gate, up] } else { vec![up] };
        let up = self.linear(Init::Normal, d, &inner, &vec![f; inner.len()], config.mlp_bias)?;
        let down = self.linear(Init::Residual, f, &[(at(names.down), d)], &[d], config.mlp_bias)?;
        let feed_forward =
            if config.gated { FeedForward::Gated { gate_up: up, down } } else { FeedForward::Plain { up, down } };
        Ok(Block { attention_norm, qkv, head_norms, output, feed_forward_norm, feed_forward })
    }
}
