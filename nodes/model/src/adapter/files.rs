//! The files of an adapter, as PEFT writes and reads them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::ModelError;
use crate::tensor_writer::hashed;

/// Their names in a folder.
pub(crate) const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the name of a module.
const PREFIX: &str = "base_model.model.";

/// adapter_config.json.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// LORA.
    pub peft_type: String,
    #[serde(default)]
    pub task_type: Option<String>,
    /// Folder or hub id of the base model.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// Rank.
    pub r: usize,
    pub lora_alpha: f64,
    #[serde(default)]
    pub lora_dropout: f64,
    /// Last parts of the names of modules, or `all-linear`.
    pub target_modules: Targets,
    /// Modules that are saved, and trained, whole.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,

    /// True where the matrices of the base model are stored `[in, out]`.
    #[serde(default)]
    pub fan_in_fan_out: bool,
    /// Scale by alpha / √r in the place of alpha / r.
    #[serde(default)]
    pub use_rslora: bool,
    #[serde(default = "none")]
    pub bias: String,
    #[serde(default)]
    pub inference_mode: bool,
    /// Everything else that PEFT writes.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Which maps of a block are changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// `all-linear`.
    Word(String),
    /// Last parts of their names.
    Names(Vec<String>),
}

fn none() -> String {
    "none".to_owned()
}

impl Targets {
    /// `all-linear`, or names with commas between them.
    pub fn parse(text: &str) -> Self {
        match text.trim() {
            "all-linear" => Self::Word("all-linear".to_owned()),
            names => Self::Names(names.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }
}

impl AdapterConfig {
    /// Reads the file of a folder. Errors if it is damaged, or asks for what is not computed here.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(CONFIG);
        let bytes = std::fs::read(&path).map_err(ModelError::read(&path))?;
        let config: Self =
            serde_json::from_slice(&bytes).map_err(|source| ModelError::Json { path: path.clone(), source })?;
        let wrong = |key: &str, found: String, wanted: &str| {
            Err(ModelError::input(format!("{key} in {}", path.display()), found, wanted))
        };
        if config.peft_type != "LORA" {
            return wrong("peft_type", config.peft_type, "LORA");
        }
        if config.bias != "none" {
            return wrong("bias", config.bias, "none");
        }
        for key in
            ["use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layer_replication", "lora_bias"]
        {
            let set = |value: &Value| match value {
                Value::Null => false,
                Value::Bool(set) => *set,
                Value::Object(map) => !map.is_empty(),
                _ => true,
            };
            if let Some(value) = config.more.get(key).filter(|value| set(value)) {
                return wrong(key, value.to_string(), "nothing: it is not computed here");
            }
        }
        config.check().map_err(|e| match e {
            ModelError::Input { what, found, wanted } => {
                ModelError::Input { what: format!("{what} in {}", path.display()), found, wanted }
            }
            e => e,
        })?;
        Ok(config)
    }

    /// Of an adapter that begins: rank, alpha and targets; nothing is dropped, nothing kept whole.
    pub fn new(base: &Path, r: usize, lora_alpha: f64, target_modules: Targets) -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: Some(base.display().to_string()),
            r,
            lora_alpha,
            lora_dropout: 0.0,
            target_modules,
            modules_to_save: None,

            fan_in_fan_out: false,
            use_rslora: false,
            bias: none(),
            inference_mode: true,
            more: Map::new(),
        }
    }

    /// The folder of the base model. `dir` is the adapter's.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn base(&self, dir: &Path) -> Result<PathBuf, ModelError> {
        let named = self.base_model_name_or_path.clone().unwrap_or_default();
        let places = [PathBuf::from(&named), dir.join(&named)];
        places.into_iter().find(|place| !named.is_empty() && place.join("config.json").is_file()).ok_or_else(|| {
            let what = format!("base_model_name_or_path in {}", dir.join(CONFIG).display());
            let wanted = "the folder of the base model; give it as the checkpoint, and this folder as its adapter";
            ModelError::input(what, format!("`{named}`"), wanted)
        })
    }

    /// Errors if rank, alpha or dropout mean nothing.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        if self.r == 0 {
            return Err(ModelError::input("rank of the adapter", self.r, "1 or more"));
        }
        if !(self.lora_alpha > 0.0 && self.lora_alpha.is_finite()) {
            return Err(ModelError::input("alpha of the adapter", self.lora_alpha, "a number above 0"));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(ModelError::input("dropout of the adapter", self.lora_dropout, "0 or more, below 1"));
        }
        Ok(())
    }

    /// What B A is multiplied by.
    pub(crate) fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Whether the module of this name, without `.weight`, is changed.
    pub(crate) fn changes(&self, module: &str) -> bool {
        match &self.target_modules {
            Targets::Word(word) if word == "all-linear" => true,
            Targets::Word(word) => ends(module, word),
            Targets::Names(names) => names.iter().any(|name| ends(module, name)),
        }
    }

    /// Whether the module of this name is changed and was not only included in all of them.
    pub(crate) fn asks_for(&self, module: &str) -> bool {
        self.target_modules != Targets::parse("all-linear") && self.changes(module)
    }

    /// Whether the module of this name is saved whole.
    pub(crate) fn keeps(&self, module: &str) -> bool {
        self.modules_to_save.iter().flatten().any(|name| ends(module, name))
    }
}

/// As PEFT compares: the whole name, or its end behind a dot.
fn ends(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// sha256 of a folder's safetensors, one behind the other in the order of their names: of one file, that file's.
pub(crate) fn fingerprint(dir: &Path) -> Result<String, ModelError> {
    let entries = std::fs::read_dir(dir).map_err(ModelError::read(dir))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(ModelError::read(dir))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    paths.sort();
    let mut hash = Sha256::new();
    for path in paths {
        hashed(&path, &mut hash)?;
    }
    Ok(hex::encode(hash.finalize()))
}

/// The tensor of a module in the adapter's file.
pub(crate) fn tensor(module: &str, what: &str) -> String {
    format!("{PREFIX}{module}.{what}")
}
