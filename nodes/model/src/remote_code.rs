//! What plain `transformers` needs to compute a checkpoint as difflow does, with `trust_remote_code`: a Python file beside the weights, and
//! `auto_map` in config.json, which says what is in it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::config::ModelConfig;
use crate::objective::ObjectiveKind;

/// Name and content of the file.
pub(crate) const MODELING: (&str, &str) = ("modeling_difflow.py", include_str!("../python/modeling_difflow.py"));
/// Its class; any of the classes that load a model of a language loads it.
const CLASS: &str = "modeling_difflow.DifflowForMaskedLM";
/// How `transformers` reads tokenizer.json.
const TOKENIZER: &str = "tokenizer_config.json";
const LOADERS: [&str; 3] = ["AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM"];

/// Whether weights in files of their own need the file. A model that reads from left to right is its family's own; one that a recipe or a
/// plug-in describes is none that `transformers` knows.
fn needed(config: &ModelConfig) -> bool {
    let fills = config.adapted.as_ref().is_some_and(|adapted| adapted.objective != ObjectiveKind::Ar);
    fills && config.recipe.is_none() && config.torch_model.is_none()
}

/// Puts `auto_map` into the keys of a config.json, in the place of a base model's (its files do not travel), and what it names, with what
/// `transformers` must know of the tokenizer, into the files beside it.
pub(crate) fn add(config: &mut ModelConfig, files: &mut BTreeMap<String, Vec<u8>>) {
    let needed = needed(config);
    let keys: &mut Map<String, Value> = &mut config.source;
    if !needed {
        // It was one of difflow's before it was trained from left to right.
        let ours = |map: &Value| LOADERS.iter().all(|loader| map.get(loader) == Some(&json!(CLASS)));
        if keys.get("auto_map").is_some_and(ours) {
            keys.remove("auto_map");
        }
        return;
    }
    let map = LOADERS.map(|loader| (loader.to_owned(), json!(CLASS)));
    keys.insert("auto_map".to_owned(), Value::Object(map.into_iter().collect()));
    files.insert(MODELING.0.to_owned(), MODELING.1.as_bytes().to_vec());
    let mask = config.adapted.as_ref().map(|adapted| adapted.mask_token_id);
    if let (Some(tokenizer), false, Some(mask)) = (files.get("tokenizer.json"), files.contains_key(TOKENIZER), mask) {
        let text = tokenizer_config(tokenizer, mask);
        files.insert(TOKENIZER.to_owned(), text.into_bytes());
    }
}

/// tokenizer_config.json for a tokenizer.json that has none: else `transformers` takes its class for that of the model's family, whose special
/// tokens it need not have, and its texts to be pairs.
fn tokenizer_config(tokenizer: &[u8], mask: u32) -> String {
    let mut said = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
        "model_input_names": ["input_ids", "attention_mask"]});
    let tokenizer: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
    let mut added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    if let Some(token) = added.find(|token| token["id"] == mask) {
        said["mask_token"] = token["content"].clone();
    }
    format!("{said:#}\n")
}
