//! Gemma 3 (text): Gemma 2 with norms over each head in the place of soft caps, five layers with a window for each one without, and a
//! rotary embedding for each of the two kinds.

use super::gemma2::{NAMES, USUAL, common, scaled};
use super::llama::Usual;
use super::{Family, Table};
use crate::config::{HeadNorm, Layer, ModelConfig, Positions};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

const KEYS: RopeKeys = RopeKeys { usual_theta: 1e6, local: Some(("rope_local_base_freq", 1e4)), ..RopeKeys::USUAL };

pub(super) static TABLE: Table = Table {
    family: Family::Gemma3,
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    layout: KEYS,
    names: NAMES,
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let usual = Usual { max_positions: 131_072, qk_norm: Some(HeadNorm::Shared), ..USUAL };
    let config = common(r, start, &usual)?;
    let pattern = r.size_opt("sliding_window_pattern")?.or(r.size_opt("_sliding_window_pattern")?).unwrap_or(6);
    let sliding = r.layer_types(config.layers)?;
    let sliding = sliding.unwrap_or_else(|| (1..=config.layers).map(|layer| layer % pattern != 0).collect());
    let windows = r.windows(&sliding, r.size_or_none("sliding_window", Some(4096))?)?;
    // The class has this key and no use for it.
    let _ = r.cap("attn_logit_softcapping", None)?;
    let (global, local) = KEYS.read_both(r, config.head_dim, config.max_positions)?;
    let each = windows.into_iter().map(|window| Layer { window, rope: Some(window.map_or(0, |_| 1)), scale: None });
    let logit_softcap = r.cap("final_logit_softcapping", None)?;
    let positions = Positions::Rotary(vec![global, local]);
    scaled(r, ModelConfig { each: each.collect(), positions, logit_softcap, ..config })
}
