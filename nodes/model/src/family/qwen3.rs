//! Qwen3: LLaMA with norms over each head of queries and keys, and windows as Qwen2 has them.

use super::llama::{NAMES, Usual, shape, with_windows};
use super::qwen2::chosen_windows;
use super::{Family, Table};
use crate::config::{HeadNorm, ModelConfig};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

pub(super) static TABLE: Table = Table {
    family: Family::Qwen3,
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    layout: RopeKeys::USUAL,
    names: NAMES,
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let usual = Usual { max_positions: 32_768, qk_norm: Some(HeadNorm::Shared), ..Usual::default() };
    let config = shape(r, start, &usual)?;
    let windows = chosen_windows(r, config.layers)?;
    with_windows(r, config, &RopeKeys::USUAL, windows)
}
