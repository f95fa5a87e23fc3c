//! Qwen3-MoE: Qwen3 with experts in some layers, and a window in all of them or in none.

use serde_json::{Map, Value};

use super::llama::{NAMES, Usual, shape, with_windows};
use super::mixtral::{experts, with_experts};
use super::{ExpertNames, Family, Names, Table};
use crate::config::{HeadNorm, Mixture, ModelConfig};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

pub(super) static TABLE: Table = Table {
    family: Family::Qwen3Moe,
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    layout: RopeKeys::USUAL,
    names: Names {
        experts: Some(ExpertNames {
            router: "mlp.gate",
            inner: ["mlp.experts.{expert}.gate_proj", "mlp.experts.{expert}.up_proj"],
            down: "mlp.experts.{expert}.down_proj",
        }),
        ..NAMES
    },
    read,
};

/// What `transformers` 4 and 5 call the number of experts.
const COUNT: [&str; 2] = ["num_experts", "num_local_experts"];

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let usual = Usual { max_positions: 32_768, qk_norm: Some(HeadNorm::Shared), ..Usual::default() };
    let config = shape(r, start, &usual)?;
    let used = r.flag("use_sliding_window")?.unwrap_or(false);
    let windows = if used { r.window_of_all(config.layers, Some(4096))? } else { r.no_windows(config.layers)? };
    let config = ModelConfig { mlp_bias: false, ..with_windows(r, config, &RopeKeys::USUAL, windows)? };
    let (count, step) = (experts(r, 128)?, r.size_opt("decoder_sparse_step")?.unwrap_or(1));
    let without = without_experts(r)?;
    let has = |layer: usize| count > 0 && !without.contains(&layer) && (layer + 1).is_multiple_of(step);
    let experts = Mixture {
        count,
        chosen: r.size_opt("num_experts_per_tok")?.unwrap_or(8),
        width: r.size_opt("moe_intermediate_size")?.unwrap_or(768),
        normed: r.flag("norm_topk_prob")?.unwrap_or(false),
        in_layer: (0..config.layers).map(has).collect(),
    };
    if experts.in_layer.contains(&true) { with_experts(r, config, experts) } else { Ok(config) }
}

/// `mlp_only_layers`: layers that have no experts, whatever their number.
fn without_experts(r: &Reader) -> Result<Vec<usize>, ModelError> {
    let Some(value) = r.get("mlp_only_layers") else { return Ok(Vec::new()) };
    let layers = value.as_array().map(|layers| layers.iter().map(|layer| Some(layer.as_u64()? as usize)));
    let layers = layers.and_then(|mut layers| layers.by_ref().collect::<Option<Vec<usize>>>());
    layers.ok_or_else(|| r.wrong("mlp_only_layers", "a list of numbers of layers"))
}

/// Writes the number of experts by both names: each version of `transformers` takes its usual number where its own name is missing.
pub(super) fn complete(map: &mut Map<String, Value>) {
    for (own, other) in [(COUNT[0], COUNT[1]), (COUNT[1], COUNT[0])] {
        if let Some(count) = map.get(own).filter(|count| !count.is_null()).cloned()
            && map.get(other).is_none_or(Value::is_null)
        {
            map.insert(other.to_owned(), count);
        }
    }
}
