//! SmolLM3: LLaMA without positions in every fourth layer, and perhaps with windows there.

use super::llama::{NAMES, Usual, shape, with_windows};
use super::{Family, Table};
use crate::config::{Layer, ModelConfig};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

const KEYS: RopeKeys = RopeKeys { usual_theta: 2e6, ..RopeKeys::USUAL };

pub(super) static TABLE: Table = Table {
    family: Family::SmolLm3,
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    layout: KEYS,
    names: NAMES,
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let config = shape(r, start, &Usual { max_positions: 32_768, tied: true, ..Usual::default() })?;
    let every = r.size_opt("no_rope_layer_interval")?.unwrap_or(4);
    let turned = r.marks("no_rope_layers", config.layers)?;
    let turned = turned.unwrap_or_else(|| (1..=config.layers).map(|layer| layer % every != 0).collect());
    let used = r.flag("use_sliding_window")?.unwrap_or(false);
    let window = r.size_or_none("sliding_window", None)?;
    let without = turned.iter().map(|turned| used && window.is_some() && !turned).collect();
    let sliding = r.layer_types(config.layers)?.unwrap_or(without);
    let windows = r.windows(&sliding, window)?;
    let config = with_windows(r, config, &KEYS, windows)?;
    let each = config.each.iter().zip(turned);
    let each = each.map(|(layer, turned)| Layer { rope: turned.then_some(0), ..*layer }).collect();
    Ok(ModelConfig { each, ..config })
}
