//! One block of the decoder, and how each family names and stores its parts.

use tch::Tensor;

use crate::config::{ModelConfig, NormKind};
use crate::error::ModelError;
use crate::layers::{FeedForward, Linear, Norm};
use crate::parameter::{Init, Leaf};

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

/// A norm over the hidden size.
pub(crate) fn norm(config: &ModelConfig, name: &str, take: &mut Take) -> Result<Norm, ModelError> {
    let shape = vec![config.hidden_size as i64];
    let weight = take(Leaf::new(Init::One, [(format!("{name}.weight"), shape.clone())]))?;
    let bias = match config.norm {
        NormKind::Rms => None,
        NormKind::Layer => Some(take(Leaf::new(Init::Zero, [(format!("{name}.bias"), shape)]))?),
    };
    Ok(Norm { kind: config.norm, weight, bias, eps: config.norm_eps })
}

/// One block of LLaMA and its relatives.
pub(crate) fn llama_block(config: &ModelConfig, layer: usize, take: &mut Take) -> Result<Block, ModelError> {
    let at = format!("model.layers.{layer}");
    let (d, f) = (config.hidden_size as i64, config.intermediate_size as i64);
    let (q, kv) = ((config.heads * config.head_dim) as i64, (config.kv_heads * config.head_dim) as i64);
    let linear = |init, input: i64, parts: &[(&str, i64)], bias: bool, take: &mut Take| {
        let weights = parts.iter().map(|(name, out)| (format!("{at}.{name}.weight"), vec![*out, input]));
        let weight = take(Leaf::new(init, weights))?;
        let biases = parts.iter().map(|(name, out)| (format!("{at}.{name}.bias"), vec![*out]));
        let bias = if bias { Some(take(Leaf::new(Init::Zero, biases))?) } else { None };
        Ok::<_, ModelError>(Linear { weight, bias, in_first: false })
    };
    let attention_norm = norm(config, &format!("{at}.input_layernorm"), take)?;
    let parts = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
    let qkv = linear(Init::Normal, d, &parts, config.qkv_bias, take)?;
    let head_norm = |name: &str, take: &mut Take| {
        let part = (format!("{at}.self_attn.{name}.weight"), vec![config.head_dim as i64]);
        let weight = take(Leaf::new(Init::One, [part]))?;
        Ok::<_, ModelError>(Norm { kind: NormKind::Rms, weight, bias: None, eps: config.norm_eps })
    };
    let head_norms = match config.qk_norm {
        true => Some((head_norm("q_norm", take)?, head_norm("k_norm", take)?)),
        false => None,
    };
    let output = linear(Init::Residual, q, &[("self_attn.o_proj", d)], config.attention_output_bias, take)?;
    let feed_forward_norm = norm(config, &format!("{at}.post_attention_layernorm"), take)?;
    let up: &[_] = if config.gated { &[("mlp.gate_proj", f), ("mlp.up_proj", f)] } else { &[("mlp.up_proj", f)] };
    let up = linear(Init::Normal, d, up, config.mlp_bias, take)?;
    let down = linear(Init::Residual, f, &[("mlp.down_proj", d)], config.mlp_bias, take)?;
    let feed_forward = match config.gated {
        true => FeedForward::Gated { gate_up: up, down },
        false => FeedForward::Plain { up, down },
    };
    Ok(Block { attention_norm, qkv, head_norms, output, feed_forward_norm, feed_forward })
}

/// One block of GPT-2.
pub(crate) fn gpt2_block(config: &ModelConfig, layer: usize, take: &mut Take) -> Result<Block, ModelError> {
    let at = format!("transformer.h.{layer}");
    let (d, f) = (config.hidden_size as i64, config.intermediate_size as i64);
    let conv1d = |init, name: &str, input: i64, output: i64, take: &mut Take| {
        let weight = take(Leaf::new(init, [(format!("{at}.{name}.weight"), vec![input, output])]))?;
        let bias = take(Leaf::new(Init::Zero, [(format!("{at}.{name}.bias"), vec![output])]))?;
        Ok::<_, ModelError>(Linear { weight, bias: Some(bias), in_first: true })
    };
    let attention_norm = norm(config, &format!("{at}.ln_1"), take)?;
    let qkv = conv1d(Init::Normal, "attn.c_attn", d, 3 * d, take)?;
    let output = conv1d(Init::Residual, "attn.c_proj", d, d, take)?;
    let feed_forward_norm = norm(config, &format!("{at}.ln_2"), take)?;
    let up = conv1d(Init::Normal, "mlp.c_fc", d, f, take)?;
    let down = conv1d(Init::Residual, "mlp.c_proj", f, d, take)?;
    let feed_forward = FeedForward::Plain { up, down };
    Ok(Block { attention_norm, qkv, head_norms: None, output, feed_forward_norm, feed_forward })
}
