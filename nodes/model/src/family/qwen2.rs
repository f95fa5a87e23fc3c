//! Qwen2: LLaMA with biases of queries, keys and values, and windows in some layers where config.json asks for them.

use super::llama::{NAMES, Usual, shape, with_windows};
use super::{Family, Table};
use crate::config::ModelConfig;
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

pub(super) static TABLE: Table = Table {
    family: Family::Qwen2,
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    layout: RopeKeys::USUAL,
    names: NAMES,
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let config = shape(r, start, &Usual { max_positions: 32_768, qkv_bias: true, ..Usual::default() })?;
    let windows = chosen_windows(r, config.layers)?;
    with_windows(r, config, &RopeKeys::USUAL, windows)
}

/// With `use_sliding_window` the layers that `layer_types` names have a window, without this key those from `max_window_layers` on.
pub(super) fn chosen_windows(r: &Reader, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let used = r.flag("use_sliding_window")?.unwrap_or(false);
    let window = r.size_or_none("sliding_window", Some(4096))?.filter(|_| used);
    let from = r.count_or("max_window_layers", 28)?;
    let by_number = (0..layers).map(|layer| window.is_some() && layer >= from).collect();
    let sliding = r.layer_types(layers)?.unwrap_or(by_number);
    r.windows(&sliding, window)
}
