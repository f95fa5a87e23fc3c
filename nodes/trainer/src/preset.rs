//! The presets of the objective: the value that each of them gives to every key that is not set (for the noiser's
//! keys see PRESET of the noiser).
//!
//! `parity` is the paper's public code (repository HKUNLP/DiffuLLaMA) with its quirks, so that its numbers can be
//! compared; `recommended` is the bound itself. A key that is set explicitly overrides the preset.

use difflow_model::{MaskedSet, ModelConfig};
use difflow_node_kit::Preset;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Two ways to count the loss.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalisation {
    /// recommended: global. parity: masked-tokens.
    #[default]
    Preset,
    /// Per maskable token of the global batch: the bound itself, whatever the split into micro-batches.
    Global,
    /// Per masked token of the micro-batch, as the paper's code does.
    MaskedTokens,
}

/// Which positions count as masked.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MaskedPositions {
    /// recommended: explicit. parity: mask-id.
    #[default]
    Preset,
    /// What the noiser masked.
    Explicit,
    /// Where the noised text has the mask token's id, even if the text itself has it there, as the paper's code does.
    MaskId,
}

/// The mask token of the base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskToken {
    /// One more row of the embedding.
    Added,
    /// A token of the vocabulary.
    Existing(u32),
}

/// Every choice made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choices {
    pub masked_set: MaskedSet,
    pub per_masked_token: bool,
    pub document_attention: bool,
}

impl Config {
    /// The choices of the preset and of the keys that differ from it.
    pub fn choices(&self) -> Choices {
        let parity = self.preset == Preset::Parity;
        let by_id = match self.masked_positions {
            MaskedPositions::Preset => parity,
            own => own == MaskedPositions::MaskId,
        };
        let per_masked_token = match self.normalisation {
            Normalisation::Preset => parity,
            own => own == Normalisation::MaskedTokens,
        };
        Choices {
            masked_set: if by_id { MaskedSet::MaskId } else { MaskedSet::Explicit },
            per_masked_token,
            document_attention: self.document_attention.unwrap_or(!parity),
        }
    }

    /// The optimizer steps until attention is full.
    pub fn anneal_steps(&self) -> u64 {
        let preset = if self.preset == Preset::Parity { 10_000 } else { self.steps.div_ceil(6) };
        self.anneal_steps.unwrap_or(preset)
    }

    /// The dropout, which the parity preset leaves to the base model's config.json (GPT-2's `resid_pdrop`, 0.1 there).
    pub fn dropout_for(&self, model: &ModelConfig) -> f64 {
        let parity = self.preset == Preset::Parity;
        self.dropout.unwrap_or(if parity { model.trained_dropout } else { 0.0 })
    }

    /// What MASK_TOKEN says for this base model; `None` when it says nothing that is allowed.
    pub fn mask_token_for(&self, model: &ModelConfig) -> Option<MaskToken> {
        match self.mask_token.as_str() {
            "added" => Some(MaskToken::Added),
            "preset" if self.preset == Preset::Recommended => Some(MaskToken::Added),
            // The paper's code: a token that hardly occurs for GPT-2 small and LLaMA-2, a new row for GPT-2 medium.
            "preset" => Some(match (model.vocab_size, model.hidden_size) {
                (50257, 768) => MaskToken::Existing(10541),
                (32000, _) => MaskToken::Existing(811),
                _ => MaskToken::Added,
            }),
            id => id.parse().ok().map(MaskToken::Existing),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    fn model(vocab: u32, width: u32) -> ModelConfig {
        let text = format!(
            r#"{{"architectures":["GPT2LMHeadModel"],"vocab_size":{vocab},"n_embd":{width},"n_layer":1,"n_head":4}}"#
        );
        ModelConfig::from_json(&text, Path::new("config.json")).unwrap()
    }

    #[test]
    fn each_preset_says_what_method_md_says() {
        let recommended = Config::default();
        let wanted = Choices { masked_set: MaskedSet::Explicit, per_masked_token: false, document_attention: true };
        assert_eq!(recommended.choices(), wanted);
        assert_eq!((recommended.steps, recommended.anneal_steps()), (1_000, 167));
        let small = model(50257, 768);
        assert_eq!(
            (recommended.dropout_for(&small), recommended.mask_token_for(&small)),
            (0.0, Some(MaskToken::Added))
        );
        let parity = Config { preset: Preset::Parity, ..Config::default() };
        let wanted = Choices { masked_set: MaskedSet::MaskId, per_masked_token: true, document_attention: false };
        assert_eq!(parity.choices(), wanted);
        assert_eq!(parity.anneal_steps(), 10_000);
        assert_eq!(
            (parity.dropout_for(&small), parity.mask_token_for(&small)),
            (0.1, Some(MaskToken::Existing(10541)))
        );
        assert_eq!(parity.mask_token_for(&model(50257, 1024)), Some(MaskToken::Added));
        assert_eq!(parity.mask_token_for(&model(32000, 4096)), Some(MaskToken::Existing(811)));
    }

    #[test]
    fn every_difference_is_a_key_of_its_own() {
        let config = Config {
            preset: Preset::Parity,
            normalisation: Normalisation::Global,
            masked_positions: MaskedPositions::Explicit,
            document_attention: Some(true),
            dropout: Some(0.0),
            mask_token: "added".into(),
            anneal_steps: Some(167),
            ..Config::default()
        };
        assert_eq!(config.choices(), Config::default().choices());
        assert_eq!(config.anneal_steps(), Config::default().anneal_steps());
        let small = model(50257, 768);
        assert_eq!((config.dropout_for(&small), config.mask_token_for(&small)), (0.0, Some(MaskToken::Added)));
        let other = Config { mask_token: "rare".into(), ..Config::default() };
        assert_eq!(other.mask_token_for(&small), None);
    }
}
