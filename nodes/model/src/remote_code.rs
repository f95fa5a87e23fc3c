//! What plain `transformers` needs to compute a checkpoint as difflow does, with `trust_remote_code`: a Python file beside the weights, and
//! `auto_map` in config.json, which says what is in it.

use serde_json::{Map, Value, json};

use crate::config::ModelConfig;
use crate::objective::ObjectiveKind;

/// Name and content of the file.
pub(crate) const MODELING: (&str, &str) = ("modeling_difflow.py", include_str!("../python/modeling_difflow.py"));
/// Its class; any of the classes that load a model of a language loads it.
const CLASS: &str = "modeling_difflow.DifflowForMaskedLM";
const LOADERS: [&str; 3] = ["AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM"];

/// Whether weights in files of their own need the file. A model that reads from left to right is its family's own; one that a recipe or a
/// plug-in describes is none that `transformers` knows.
fn needed(config: &ModelConfig) -> bool {
    let fills = config.adapted.as_ref().is_some_and(|adapted| adapted.objective != ObjectiveKind::Ar);
    fills && config.recipe.is_none() && config.torch_model.is_none()
}

/// Puts `auto_map` into the keys of a config.json, in the place of a base model's: its files do not travel. Returns the file to be written
/// beside it, if one is needed.
pub(crate) fn name_in(config: &mut ModelConfig) -> Option<(&'static str, &'static str)> {
    let needed = needed(config);
    let keys: &mut Map<String, Value> = &mut config.source;
    if needed {
        let map = LOADERS.map(|loader| (loader.to_owned(), json!(CLASS)));
        keys.insert("auto_map".to_owned(), Value::Object(map.into_iter().collect()));
        return Some(MODELING);
    }
    // It was one of difflow's before it was trained from left to right.
    let ours = |map: &Value| LOADERS.iter().all(|loader| map.get(loader) == Some(&json!(CLASS)));
    if keys.get("auto_map").is_some_and(ours) {
        keys.remove("auto_map");
    }
    None
}
