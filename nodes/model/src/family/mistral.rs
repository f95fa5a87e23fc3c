//! Mistral: LLaMA with a sliding window in every layer.

use super::llama::{NAMES, Usual, shape, with_windows};
use super::{Family, Table};
use crate::config::ModelConfig;
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

pub(super) static TABLE: Table = Table {
    family: Family::Mistral,
    model_type: "mistral",
    class: "MistralForCausalLM",
    layout: RopeKeys::USUAL,
    names: NAMES,
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let config = shape(r, start, &Usual { max_positions: 131_072, ..Usual::default() })?;
    let windows = r.window_of_all(config.layers, Some(4096))?;
    with_windows(r, config, &RopeKeys::USUAL, windows)
}
