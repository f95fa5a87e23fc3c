//! GPT-NeoX (Pythia): layer norms with biases, both halves of a block side by side, a part of each head turned, a plain feed-forward
//! block; queries, keys and values in one matrix, head by head.

use super::llama::{NAMES, with_windows};
use super::{Family, Names, Table};
use crate::config::{Activation, ModelConfig, NormKind, Residual};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

const KEYS: RopeKeys =
    RopeKeys { theta: "rotary_emb_base", partial: Some("rotary_pct"), usual_partial: 0.25, ..RopeKeys::USUAL };

pub(super) static TABLE: Table = Table {
    family: Family::GptNeox,
    model_type: "gpt_neox",
    class: "GPTNeoXForCausalLM",
    layout: KEYS,
    names: Names {
        base: "gpt_neox.",
        embedding: "gpt_neox.embed_in",
        norm: "gpt_neox.final_layer_norm",
        // Files have the older name; `transformers` 5 calls the module `lm_head` and reads both.
        head: "embed_out",
        head_alias: "lm_head",
        layer: "gpt_neox.layers.{layer}",
        qkv: &["attention.query_key_value"],
        qkv_by_head: true,
        output: "attention.dense",
        inner: &["mlp.dense_h_to_4h"],
        down: "mlp.dense_4h_to_h",
        buffers: &[".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"],
        ..NAMES
    },
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let (hidden_size, heads) = (r.size("hidden_size")?, r.size("num_attention_heads")?);
    r.require(hidden_size % heads == 0, "num_attention_heads", "a divisor of hidden_size")?;
    let head_dim = hidden_size / heads;
    r.require(
        r.size_opt("head_dim")?.is_none_or(|said| said == head_dim),
        "head_dim",
        "what hidden_size and heads say",
    )?;
    let bias = r.flag("attention_bias")?.unwrap_or(true);
    let beside = r.flag("use_parallel_residual")?.unwrap_or(true);
    let config = ModelConfig {
        hidden_size,
        intermediate_size: r.size("intermediate_size")?,
        layers: r.layers("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim,
        max_positions: r.size_opt("max_position_embeddings")?.unwrap_or(2048),
        norm: NormKind::Layer,
        norm_eps: r.number_or("layer_norm_eps", 1e-5)?,
        residual: if beside { Residual::Parallel } else { Residual::Sequential },
        activation: r.activation("hidden_act", Activation::Gelu)?,
        tied: r.flag("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias: bias,
        attention_output_bias: bias,
        mlp_bias: true,
        trained_dropout: r.share_or("hidden_dropout", 0.0)?,
        ..start
    };
    let windows = r.no_windows(config.layers)?;
    with_windows(r, config, &KEYS, windows)
}
