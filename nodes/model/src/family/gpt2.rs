//! GPT-2: learned positions, layer norms with biases, a plain feed-forward block, matrices stored `[in, out]`.

use super::llama;
use super::{Family, Names, Table};
use crate::config::{Activation, Layer, ModelConfig, NormKind, Positions};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

pub(super) static TABLE: Table = Table {
    family: Family::Gpt2,
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    layout: RopeKeys::USUAL,
    names: Names {
        base: "transformer.",
        embedding: "transformer.wte",
        positions: "transformer.wpe",
        norm: "transformer.ln_f",
        layer: "transformer.h.{layer}",
        attention_norm: "ln_1",
        qkv: &["attn.c_attn"],
        // The family has no norms of queries and keys.
        q_norm: "attn.q_norm",
        k_norm: "attn.k_norm",
        output: "attn.c_proj",
        feed_forward_norm: "ln_2",
        inner: &["mlp.c_fc"],
        down: "mlp.c_proj",
        in_first: true,
        buffers: &[".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"],
        ..llama::NAMES
    },
    read,
};

/// Keys that `transformers` reads as GPT-2's own.
const ALIASES: [(&str, &str); 4] = [
    ("hidden_size", "n_embd"),
    ("num_attention_heads", "n_head"),
    ("num_hidden_layers", "n_layer"),
    ("max_position_embeddings", "n_positions"),
];

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let (hidden_size, heads) = (r.size("n_embd")?, r.size("n_head")?);
    // `transformers` takes these names for the same things, and of two the last.
    for (other, own) in ALIASES {
        let (found, said) = (r.size_opt(other)?, r.size_opt(own)?);
        r.require(found.is_none() || found == said, other, &format!("what `{own}` says"))?;
    }
    r.require(hidden_size % heads == 0, "n_head", "a divisor of n_embd")?;
    let (layers, head_dim) = (r.layers("n_layer")?, hidden_size / heads);
    let (scaled, by_layer) = (r.flag("scale_attn_weights")?, r.flag("scale_attn_by_inverse_layer_idx")?);
    let (scaled, by_layer) = (scaled.unwrap_or(true), by_layer.unwrap_or(false));
    // In which order keys are scaled and multiplied, and that it happens in fp32, is nothing that fp32 could tell.
    let _ = r.flag("reorder_and_upcast_attn")?;
    let whole = if scaled { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
    let scale = |layer: usize| match (scaled, by_layer) {
        (true, false) => None,
        (_, true) => Some(whole / (layer + 1) as f64),
        (false, false) => Some(whole),
    };
    Ok(ModelConfig {
        hidden_size,
        intermediate_size: r.size_opt("n_inner")?.unwrap_or(4 * hidden_size),
        layers,
        heads,
        kv_heads: heads,
        head_dim,
        max_positions: r.size_opt("n_positions")?.unwrap_or(1024),
        each: (0..layers).map(|layer| Layer { scale: scale(layer), ..Layer::default() }).collect(),
        norm: NormKind::Layer,
        norm_eps: r.number_or("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Learned,
        activation: r.activation("activation_function", Activation::GeluTanh)?,
        trained_dropout: r.share_or("resid_pdrop", 0.1)?,
        tied: r.flag("tie_word_embeddings")?.unwrap_or(true),
        qkv_bias: true,
        attention_output_bias: true,
        mlp_bias: true,
        ..start
    })
}
