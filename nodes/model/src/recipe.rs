//! Model recipes: a variant of a supported decoder described in JSON, without code.
//!
//! `difflow_recipe.json` next to config.json (or passed to [`crate::Model::load_with_recipe`]) says which decoder the
//! model uses, under which names config.json has its sizes, what config.json leaves unspecified, and what the tensors
//! are called:
//!
//! ```json
//! {"difflow_recipe": 1, "base": "LlamaForCausalLM", "keys": {"rms_norm_eps": "norm_epsilon"},
//!  "values": {"norm": "layer", "mlp": "plain", "qkv_bias": true},
//!  "tensors": {"model.layers.{layer}.mlp.up_proj": "model.layers.{layer}.mlp.c_fc"}}
//! ```
//!
//! Tensors of one matrix that are given the same name (queries, keys and values; gate and up) are stacked in it, in
//! that order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::parameter::{Leaf, Part};

/// Name of the file beside config.json.
pub const RECIPE_FILE: &str = "difflow_recipe.json";

/// A recipe; unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Version of the format: 1.
    difflow_recipe: u32,
    /// For people.
    #[serde(default, rename = "description")]
    _description: String,
    /// The supported class that this is a variant of.
    pub base: String,
    /// Key of the base's config.json → key of this one's.
    #[serde(default)]
    pub keys: BTreeMap<String, String>,
    /// Keys of the base's config.json, or switches of the decoder, that config.json does not have.
    #[serde(default)]
    pub values: Map<String, Value>,
    /// Tensor of the base → tensor of the files. `{layer}` is the block's number. A name without its last part (`.weight`,
    /// `.bias`) stands for both.
    #[serde(default)]
    tensors: BTreeMap<String, String>,
    #[serde(skip)]
    file: PathBuf,
}

impl Recipe {
    /// Reads the recipe's text; `file` is only named in errors.
    pub fn from_json(text: &[u8], file: &Path) -> Result<Self, ModelError> {
        let wrong = |detail: String| ModelError::Recipe { file: file.to_owned(), detail };
        let mut recipe: Self = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
        if recipe.difflow_recipe != 1 {
            return Err(wrong(format!("`difflow_recipe`: found version {}, wanted 1", recipe.difflow_recipe)));
        }
        for (ours, theirs) in &recipe.tensors {
            if ours.contains("{layer}") != theirs.contains("{layer}") {
                return Err(wrong(format!("`tensors`: `{ours}` and `{theirs}` must both have {{layer}}, or neither")));
            }
        }
        file.clone_into(&mut recipe.file);
        Ok(recipe)
    }

    /// The configuration as the base spells it.
    pub fn spelled(&self, source: &Map<String, Value>) -> Map<String, Value> {
        let mut map = source.clone();
        for (ours, theirs) in &self.keys {
            if let Some(value) = source.get(theirs) {
                map.insert(ours.clone(), value.clone());
            }
        }
        map.extend(self.values.clone());
        map
    }

    /// The leaf with the names of the files; neighbours of one name become one tensor.
    pub fn named(&self, leaf: Leaf) -> Leaf {
        let mut parts: Vec<Part> = Vec::with_capacity(leaf.parts.len());
        for part in leaf.parts {
            let name = self.name(&part.name);
            match parts.last_mut() {
                Some(last) if last.name == name => last.shape[0] += part.shape[0],
                _ => parts.push(Part { name, shape: part.shape }),
            }
        }
        Leaf { parts, ..leaf }
    }

    /// The name in the files of a tensor of the base.
    pub fn name(&self, ours: &str) -> String {
        self.found(ours).map_or_else(|| ours.to_owned(), |(_, name)| name)
    }

    /// The entry that names a tensor of the base, and the name.
    fn found(&self, ours: &str) -> Option<(&String, String)> {
        let words: Vec<&str> = ours.split('.').collect();
        let layer = words.iter().find(|word| word.parse::<u32>().is_ok()).copied();
        let pattern: Vec<&str> = words.iter().map(|&w| if Some(w) == layer { "{layer}" } else { w }).collect();
        let whole = pattern.join(".");
        let fill = |theirs: &str| theirs.replace("{layer}", layer.unwrap_or_default());
        if let Some((key, theirs)) = self.tensors.get_key_value(&whole) {
            return Some((key, fill(theirs)));
        }
        let (stem, last) = whole.rsplit_once('.')?;
        self.tensors.get_key_value(stem).map(|(key, theirs)| (key, format!("{}.{last}", fill(theirs))))
    }

    /// An entry that names no tensor of the base is a misspelling.
    pub fn check_tensors<'a>(&self, ours: impl Iterator<Item = &'a str>) -> Result<(), ModelError> {
        let used: BTreeSet<&String> = ours.filter_map(|name| self.found(name)).map(|(key, _)| key).collect();
        match self.tensors.keys().find(|key| !used.contains(key)) {
            None => Ok(()),
            Some(unused) => {
                let detail = format!("`tensors`: {} has no tensor `{unused}`", self.base);
                Err(ModelError::Recipe { file: self.file.clone(), detail })
            }
        }
    }
}
