//! Families of models. A family is one file: how `transformers` names it, how its config.json is read, and the names under which its
//! tensors are stored. The parts of a decoder are the same for all (`block.rs`, `layers.rs`).

mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;
mod stablelm;

use serde_json::{Map, Value};

use crate::config::ModelConfig;
use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope_keys::RopeKeys;

/// What a model is a member of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gpt2,
    /// Pythia.
    GptNeox,
    /// Phi-3 and Phi-4.
    Phi3,
    Olmo2,
    Gemma2,
    /// The text models.
    Gemma3,
    StableLm,
    SmolLm3,
    Granite,
    Mixtral,
    Qwen3Moe,
    /// What a plug-in's torch model makes of it.
    Foreign,
}

/// Everything that is said of a family.
#[derive(Debug)]
pub(crate) struct Table {
    pub family: Family,
    /// `model_type` of `transformers`.
    pub model_type: &'static str,
    /// `architectures` of `transformers`.
    pub class: &'static str,
    /// How config.json spells the rotary embedding.
    pub layout: RopeKeys,
    pub names: Names,
    /// Completes what all families have in common.
    pub read: fn(&Reader, ModelConfig) -> Result<ModelConfig, ModelError>,
}

/// The names of a family's tensors, without `.weight` and `.bias`. Those of a block come after `layer`, in which `{layer}` stands for
/// its number.
#[derive(Debug)]
pub(crate) struct Names {
    /// What the files of a bare model (`GPT2Model`, `LlamaModel`) leave out at the beginning of a name.
    pub base: &'static str,
    pub embedding: &'static str,
    /// Learned positions.
    pub positions: &'static str,
    pub norm: &'static str,
    pub head: &'static str,
    /// Another name that files may have for the head.
    pub head_alias: &'static str,
    pub layer: &'static str,
    pub attention_norm: &'static str,
    /// Queries, keys and values: one name for all, or one for each.
    pub qkv: &'static [&'static str],
    /// Queries, keys and values of a head stand together, head after head.
    pub qkv_by_head: bool,
    /// `{head}` stands for the number of the head.
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub output: &'static str,
    pub attention_after: &'static str,
    pub feed_forward_norm: &'static str,
    /// What widens: one name for gate and up, or one for each; without a gate the last.
    pub inner: &'static [&'static str],
    pub down: &'static str,
    pub feed_forward_after: &'static str,
    pub experts: Option<ExpertNames>,
    /// Matrices of blocks are stored `[in, out]` (Conv1D), not `[out, in]`.
    pub in_first: bool,
    /// Endings of tensors in old files that nothing reads.
    pub buffers: &'static [&'static str],
}

/// The names of a block's experts, behind `layer`; `{expert}` stands for the number of the expert.
#[derive(Debug)]
pub(crate) struct ExpertNames {
    pub router: &'static str,
    /// Gate and up.
    pub inner: [&'static str; 2],
    pub down: &'static str,
}

impl Table {
    /// Adds the keys of `transformers` 4 to a config.json that has only those of 5, and the other way round.
    pub fn complete(&self, map: &mut Map<String, Value>) {
        self.layout.complete(map);
        if self.family == Family::Qwen3Moe {
            qwen3_moe::complete(map);
        }
    }
}

impl Names {
    /// The name of a part of block `layer`.
    pub fn of_layer(&self, layer: usize, part: &str) -> String {
        format!("{}.{part}", self.layer.replace("{layer}", &layer.to_string()))
    }
}

const TABLES: [&Table; 15] = [
    &llama::TABLE,
    &mistral::TABLE,
    &qwen2::TABLE,
    &qwen3::TABLE,
    &gpt2::TABLE,
    &gpt_neox::TABLE,
    &phi3::TABLE,
    &olmo2::TABLE,
    &gemma2::TABLE,
    &gemma3::TABLE,
    &stablelm::TABLE,
    &smollm3::TABLE,
    &granite::TABLE,
    &mixtral::TABLE,
    &qwen3_moe::TABLE,
];

impl Family {
    /// Of a plug-in's model, whose names and keys are its own, nobody asks; the answer is LLaMA's.
    pub(crate) fn table(self) -> &'static Table {
        TABLES.into_iter().find(|table| table.family == self).unwrap_or(&llama::TABLE)
    }

    pub(crate) fn names(self) -> &'static Names {
        &self.table().names
    }
}

/// The family of a config.json, and the class of its model, from `architectures` or `model_type`. Errors if it is none of ours.
pub(crate) fn find(r: &Reader) -> Result<(&'static Table, String), ModelError> {
    let allowed = TABLES.map(|table| table.class);
    let wanted = format!("one of {}", allowed.join(", "));
    let found = match r.get("architectures") {
        Some(list) => {
            let name = list.get(0).and_then(Value::as_str).unwrap_or_default();
            // The bare GPT-2 class holds the same tensors; what is written back has an output head.
            let name = if name == "GPT2Model" { gpt2::TABLE.class } else { name };
            TABLES.into_iter().find(|table| table.class == name)
        }
        None => {
            let kind = r.get("model_type").and_then(Value::as_str).unwrap_or_default();
            TABLES.into_iter().find(|table| table.model_type == kind)
        }
    };
    match found {
        Some(table) => Ok((table, table.class.to_owned())),
        None => Err(r.wrong("architectures", &wanted)),
    }
}

/// A name as the files of a bare model have it.
pub(crate) fn without_base(name: &str) -> &str {
    TABLES.iter().find_map(|table| name.strip_prefix(table.names.base)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_blocks_are_those_of_the_files() {
        let (llama, gpt2) = (Family::Llama.names(), Family::Gpt2.names());
        assert_eq!(llama.of_layer(11, llama.qkv[1]), "model.layers.11.self_attn.k_proj");
        assert_eq!(gpt2.of_layer(3, gpt2.qkv[0]), "transformer.h.3.attn.c_attn");
        assert_eq!(without_base("transformer.wte.weight"), "wte.weight");
        assert_eq!(without_base("gpt_neox.embed_in.weight"), "embed_in.weight");
        assert_eq!(without_base("lm_head.weight"), "lm_head.weight");
    }
}
