//! Phi-3 and Phi-4: LLaMA with one matrix for queries, keys and values and one for gate and up, and longrope.

use super::llama::{NAMES, Usual, shape, with_windows};
use super::{Family, Names, Table};
use crate::config::ModelConfig;
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

const KEYS: RopeKeys = RopeKeys { partial: Some("partial_rotary_factor"), only_long: Some(4096), ..RopeKeys::USUAL };

pub(super) static TABLE: Table = Table {
    family: Family::Phi3,
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    layout: KEYS,
    names: Names { qkv: &["self_attn.qkv_proj"], inner: &["mlp.gate_up_proj"], ..NAMES },
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let config = shape(r, start, &Usual { max_positions: 4096, norm_eps: 1e-5, ..Usual::default() })?;
    let windows = r.window_of_all(config.layers, None)?;
    let config = with_windows(r, config, &KEYS, windows)?;
    // `transformers` has no biases here whatever the keys say.
    let trained_dropout = r.share_or("resid_pdrop", 0.0)?;
    Ok(ModelConfig { qkv_bias: false, attention_output_bias: false, mlp_bias: false, trained_dropout, ..config })
}
