//! Mixtral: Mistral with experts in every layer.

use super::llama::{NAMES, Usual, shape, with_windows};
use super::{ExpertNames, Family, Names, Table};
use crate::config::{Mixture, ModelConfig};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

const KEYS: RopeKeys = RopeKeys { usual_theta: 1e6, ..RopeKeys::USUAL };

pub(super) static TABLE: Table = Table {
    family: Family::Mixtral,
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    layout: KEYS,
    names: Names {
        experts: Some(ExpertNames {
            router: "block_sparse_moe.gate",
            inner: ["block_sparse_moe.experts.{expert}.w1", "block_sparse_moe.experts.{expert}.w3"],
            down: "block_sparse_moe.experts.{expert}.w2",
        }),
        ..NAMES
    },
    read,
};

/// The most experts of a layer: more are a damaged file.
const EXPERTS: usize = 4096;

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let config = shape(r, start, &Usual { max_positions: 131_072, norm_eps: 1e-5, ..Usual::default() })?;
    let windows = r.window_of_all(config.layers, None)?;
    let config = with_windows(r, config, &KEYS, windows)?;
    // `transformers` has no biases here whatever the keys say.
    let config = ModelConfig { qkv_bias: false, attention_output_bias: false, ..config };
    let experts = Mixture {
        count: experts(r, 8)?,
        chosen: r.size_opt("num_experts_per_tok")?.unwrap_or(2),
        width: config.intermediate_size,
        normed: true,
        in_layer: vec![true; config.layers],
    };
    with_experts(r, config, experts)
}

/// The number of experts of a layer, which files call by either name.
pub(super) fn experts(r: &Reader, usual: usize) -> Result<usize, ModelError> {
    let said = |key: &str| r.get(key).map(|_| r.count_or(key, usual)).transpose();
    let (one, other) = (said("num_experts")?, said("num_local_experts")?);
    let alike = one.is_none() || other.is_none() || one == other;
    r.require(alike, "num_local_experts", "what num_experts says")?;
    let count = one.or(other).unwrap_or(usual);
    let key = if one.is_some() { "num_experts" } else { "num_local_experts" };
    r.require(count <= EXPERTS, key, &format!("at most {EXPERTS}"))?;
    Ok(count)
}

/// With experts, which have gates and no biases.
pub(super) fn with_experts(r: &Reader, config: ModelConfig, experts: Mixture) -> Result<ModelConfig, ModelError> {
    r.require(config.gated, "mlp", "gated, with experts")?;
    let wanted = format!("at most the {} experts of a layer", experts.count);
    r.require(experts.chosen <= experts.count, "num_experts_per_tok", &wanted)?;
    Ok(ModelConfig { mlp_bias: false, experts: Some(experts), ..config })
}
