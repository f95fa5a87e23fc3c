//! Gemma 2: norms before and behind both halves, which multiply by 1 + weight; scaled embeddings, soft caps on scores and logits, and a
//! sliding window in every other layer.

use super::llama::{self, Usual, shape, with_windows};
use super::{Family, Names, Table};
use crate::config::{Activation, Layer, ModelConfig, Norms};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

pub(super) static TABLE: Table = Table {
    family: Family::Gemma2,
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    layout: RopeKeys::USUAL,
    names: NAMES,
    read,
};

pub(super) const NAMES: Names = Names {
    attention_after: "post_attention_layernorm",
    feed_forward_norm: "pre_feedforward_layernorm",
    feed_forward_after: "post_feedforward_layernorm",
    ..llama::NAMES
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let config = common(r, start, &USUAL)?;
    let sliding = r.layer_types(config.layers)?;
    let sliding = sliding.unwrap_or_else(|| (0..config.layers).map(|layer| layer % 2 == 0).collect());
    let windows = r.windows(&sliding, r.size_or_none("sliding_window", Some(4096))?)?;
    let attention_softcap = r.cap("attn_logit_softcapping", Some(50.0))?;
    let logit_softcap = r.cap("final_logit_softcapping", Some(30.0))?;
    let config = with_windows(r, config, &RopeKeys::USUAL, windows)?;
    scaled(r, ModelConfig { attention_softcap, logit_softcap, ..config })
}

pub(super) const USUAL: Usual =
    Usual { max_positions: 8192, norm_eps: 1e-6, tied: true, head_dim: Some(256), qkv_bias: false, qk_norm: None };

/// What Gemma 2 and 3 have in common.
pub(super) fn common(r: &Reader, start: ModelConfig, usual: &Usual) -> Result<ModelConfig, ModelError> {
    let both = r.flag("use_bidirectional_attention")?.unwrap_or(false);
    r.require(!both, "use_bidirectional_attention", "false or null: a model that reads from left to right")?;
    let config = shape(r, start, usual)?;
    Ok(ModelConfig {
        norm_offset: true,
        norms: Norms::Both,
        activation: r.activation("hidden_activation", Activation::GeluTanh)?,
        // `transformers` rounds it to fp32, too.
        embedding_scale: f64::from((config.hidden_size as f64).sqrt() as f32),
        mlp_bias: false,
        ..config
    })
}

/// With the scale of attention.
pub(super) fn scaled(r: &Reader, config: ModelConfig) -> Result<ModelConfig, ModelError> {
    let scale = Some(1.0 / r.number_or("query_pre_attn_scalar", 256.0)?.sqrt());
    Ok(ModelConfig { each: config.each.into_iter().map(|layer| Layer { scale, ..layer }).collect(), ..config })
}
