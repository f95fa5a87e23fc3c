//! The adapter that the keys LORA_* describe.

use difflow_model::{AdapterConfig, Family, ModelConfig, Targets};
use eyre::{Context, Result};

use crate::config::Config;

impl Config {
    /// For a base model of this shape. Where the mask token was `added`, the modules with its row are kept whole.
    ///
    /// # Errors
    /// When the current folder is gone.
    pub fn adapter(&self, model: &ModelConfig, added: bool) -> Result<AdapterConfig> {
        let base = std::path::absolute(&self.base_model).with_context(|| self.base_model.clone())?;
        let alpha = self.lora_alpha.unwrap_or(self.lora_rank as f64);
        let named = self.lora_whole.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        let mut whole: Vec<String> = named.collect();
        if added {
            whole.extend(AdapterConfig::vocabulary_modules(model));
        }
        whole.sort();
        whole.dedup();
        Ok(AdapterConfig {
            use_rslora: self.lora_rank_stabilised,
            lora_dropout: self.lora_dropout,
            modules_to_save: (!whole.is_empty()).then_some(whole),
            fan_in_fan_out: model.family == Family::Gpt2,
            ..AdapterConfig::new(&base, self.lora_rank, alpha, Targets::parse(&self.lora_targets))
        })
    }
}
