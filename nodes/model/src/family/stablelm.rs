//! StableLM: layer norms, a quarter of each head turned, perhaps a norm for each head and both halves of a block side by side.

use super::llama::{NAMES, Usual, shape, with_windows};
use super::{Family, Names, Table};
use crate::config::{HeadNorm, ModelConfig, NormKind, Residual};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

const KEYS: RopeKeys = RopeKeys { partial: Some("partial_rotary_factor"), usual_partial: 0.25, ..RopeKeys::USUAL };

pub(super) static TABLE: Table = Table {
    family: Family::StableLm,
    model_type: "stablelm",
    class: "StableLmForCausalLM",
    layout: KEYS,
    names: Names {
        q_norm: "self_attn.q_layernorm.norms.{head}",
        k_norm: "self_attn.k_layernorm.norms.{head}",
        ..NAMES
    },
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let config = shape(r, start, &Usual { max_positions: 4096, ..Usual::default() })?;
    let of_heads = config.head_dim * config.heads == config.hidden_size;
    r.require(of_heads, "head_dim", "hidden_size divided by num_attention_heads")?;
    let beside = r.flag("use_parallel_residual")?.unwrap_or(false);
    let config = ModelConfig {
        norm: NormKind::Layer,
        norm_eps: r.number_or("layer_norm_eps", 1e-5)?,
        residual: if beside { Residual::ParallelOneNorm } else { Residual::Sequential },
        qkv_bias: r.flag("use_qkv_bias")?.unwrap_or(false),
        attention_output_bias: false,
        mlp_bias: false,
        qk_norm: r.flag("qk_layernorm")?.unwrap_or(false).then_some(HeadNorm::Each),
        trained_dropout: r.share_or("hidden_dropout", 0.0)?,
        ..config
    };
    let windows = r.no_windows(config.layers)?;
    with_windows(r, config, &KEYS, windows)
}
