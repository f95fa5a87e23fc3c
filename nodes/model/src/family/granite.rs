//! Granite: LLaMA with scales of embeddings, residuals, attention and logits.

use super::llama::{NAMES, Usual, shape, with_windows};
use super::{Family, Table};
use crate::config::{Layer, ModelConfig};
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

pub(super) static TABLE: Table = Table {
    family: Family::Granite,
    model_type: "granite",
    class: "GraniteForCausalLM",
    layout: RopeKeys::USUAL,
    names: NAMES,
    read,
};

fn read(r: &Reader, start: ModelConfig) -> Result<ModelConfig, ModelError> {
    let config = shape(r, start, &Usual::default())?;
    let windows = r.no_windows(config.layers)?;
    let config = with_windows(r, config, &RopeKeys::USUAL, windows)?;
    let scale = Some(r.number_or("attention_multiplier", 1.0)?);
    Ok(ModelConfig {
        each: config.each.into_iter().map(|layer| Layer { scale, ..layer }).collect(),
        embedding_scale: r.number_or("embedding_multiplier", 1.0)?,
        residual_scale: r.number_or("residual_multiplier", 1.0)?,
        logit_scale: 1.0 / r.number_or("logits_scaling", 1.0)?,
        ..config
    })
}
