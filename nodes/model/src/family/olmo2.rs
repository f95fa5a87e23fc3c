//! OLMo 2: norms behind attention and feed-forward instead of before them, and over all heads of queries and of keys.

use super::llama::{NAMES, Usual, shape, with_windows};
use super::{Family, Names, Table};
use crate::config::{HeadNorm, ModelConfig, Norms};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

pub(super) static TABLE: Table = Table {
    family: Family::Olmo2,
    model_type: "olmo2",
    class: "Olmo2ForCausalLM",
    layout: RopeKeys::USUAL,
    names: Names {
        attention_after: "post_attention_layernorm",
        feed_forward_after: "post_feedforward_layernorm",
        ..NAMES
    },
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let usual = Usual { norm_eps: 1e-5, qk_norm: Some(HeadNorm::Whole), ..Usual::default() };
    let config = ModelConfig { norms: Norms::After, ..shape(r, start, &usual)? };
    let windows = r.no_windows(config.layers)?;
    with_windows(r, config, &RopeKeys::USUAL, windows)
}
