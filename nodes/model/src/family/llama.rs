//! LLaMA: rotary positions, RMS norms, a gated feed-forward block. Most families are spelled as it is, and so are the variants that a
//! recipe describes.

use super::{Family, Names, Table};
use crate::config::{Activation, HeadNorm, Layer, ModelConfig, NormKind, Positions};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

pub(super) static TABLE: Table = Table {
    family: Family::Llama,
    model_type: "llama",
    class: "LlamaForCausalLM",
    layout: RopeKeys::USUAL,
    names: NAMES,
    read,
};

pub(super) const NAMES: Names = Names {
    base: "model.",
    embedding: "model.embed_tokens",
    // The family has no learned positions.
    positions: "model.embed_positions",
    norm: "model.norm",
    head: "lm_head",
    head_alias: "lm_head",
    layer: "model.layers.{layer}",
    attention_norm: "input_layernorm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    qkv_by_head: false,
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    // Nor norms behind its halves.
    attention_after: "self_attn.after_layernorm",
    feed_forward_norm: "post_attention_layernorm",
    inner: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    feed_forward_after: "mlp.after_layernorm",
    experts: None,
    in_first: false,
    buffers: &[".rotary_emb.inv_freq"],
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let config = shape(r, start, &Usual::default())?;
    // Families near LLaMA, of which a recipe tells, have a window in every layer where their config.json names one.
    let windows = if r.variant { r.window_of_all(config.layers, None)? } else { r.no_windows(config.layers)? };
    with_windows(r, config, &RopeKeys::USUAL, windows)
}

/// What `transformers` takes where a key is left out.
pub(super) struct Usual {
    pub max_positions: usize,
    pub norm_eps: f64,
    pub tied: bool,
    /// Heads of this size, without `head_dim`; `None`: the hidden size divided by the heads.
    pub head_dim: Option<usize>,
    /// Queries, keys and values have biases whatever `attention_bias` says, and attention's output has none.
    pub qkv_bias: bool,
    pub qk_norm: Option<HeadNorm>,
}

impl Default for Usual {
    fn default() -> Self {
        Self { max_positions: 2048, norm_eps: 1e-6, tied: false, head_dim: None, qkv_bias: false, qk_norm: None }
    }
}

/// The keys that families near LLaMA share, without windows and rotary embedding.
pub(super) fn shape(r: &Reader, start: ModelConfig, usual: &Usual) -> Result<ModelConfig, ModelError> {
    let (hidden_size, heads) = (r.size("hidden_size")?, r.size("num_attention_heads")?);
    let head_dim = match r.size_opt("head_dim")?.or(usual.head_dim) {
        Some(found) => found,
        None => {
            r.require(hidden_size % heads == 0, "num_attention_heads", "a divisor of hidden_size")?;
            hidden_size / heads
        }
    };
    let attention_bias = r.flag("attention_bias")?.unwrap_or(false);
    let qk_norm = match r.flag("qk_norm")? {
        None => usual.qk_norm,
        Some(normed) => normed.then_some(usual.qk_norm.unwrap_or(HeadNorm::Shared)),
    };
    Ok(ModelConfig {
        hidden_size,
        intermediate_size: r.size("intermediate_size")?,
        layers: r.layers("num_hidden_layers")?,
        heads,
        kv_heads: r.size_opt("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        max_positions: r.size_opt("max_position_embeddings")?.unwrap_or(usual.max_positions),
        norm: if r.choice("norm", "rms", "layer")? { NormKind::Layer } else { NormKind::Rms },
        norm_eps: r.number_or("rms_norm_eps", usual.norm_eps)?,
        activation: r.activation("hidden_act", Activation::Silu)?,
        tied: r.flag("tie_word_embeddings")?.unwrap_or(usual.tied),
        qkv_bias: r.flag("qkv_bias")?.unwrap_or(usual.qkv_bias || attention_bias),
        attention_output_bias: r.flag("attention_output_bias")?.unwrap_or(attention_bias && !usual.qkv_bias),
        mlp_bias: r.flag("mlp_bias")?.unwrap_or(false),
        gated: !r.choice("mlp", "gated", "plain")?,
        qk_norm,
        ..start
    })
}

/// With one rotary embedding for all layers, and a window for each.
pub(super) fn with_windows(
    r: &Reader,
    config: ModelConfig,
    keys: &RopeKeys,
    windows: Vec<Option<usize>>,
) -> Result<ModelConfig, ModelError> {
    let rope = keys.read(r, config.head_dim, config.max_positions)?;
    let each = windows.into_iter().map(|window| Layer { window, rope: Some(0), scale: None }).collect();
    Ok(ModelConfig { positions: Positions::Rotary(vec![rope]), each, ..config })
}
