//! How the models of a run are loaded: which plug-in, if any, handles the base model.

use std::path::Path;

use difflow_plugin_host::{Found, Kind, Libtorch, PluginError, TorchModel, find};

use crate::arithmetic::Precision;
use crate::device::Device;
use crate::error::ModelError;
use crate::model::Model;

/// The libtorch that difflow is built against.
pub fn libtorch() -> Libtorch {
    Libtorch { version: env!("DIFFLOW_LIBTORCH").to_owned(), cxx11_abi: 1 }
}

/// A plug-in's torch model: what the key TORCH_MODEL names.
#[derive(Debug, Clone)]
pub struct TorchPlugin {
    pub(crate) found: Found,
    pub(crate) config: String,
}

impl TorchPlugin {
    /// Finds what TORCH_MODEL names and looks whether it fits this libtorch and takes its configuration; `None` when the key is empty.
    ///
    /// # Errors
    /// What is wrong with library or configuration.
    pub fn named(value: &str, config: &str) -> Result<Option<Self>, PluginError> {
        if value.is_empty() { Ok(None) } else { Self::of(find(Kind::TorchModel, value)?, config).map(Some) }
    }

    fn of(found: Found, config: &str) -> Result<Self, PluginError> {
        let plugin = Self { found, config: if config.trim().is_empty() { "{}".to_owned() } else { config.to_owned() } };
        plugin.open()?;
        Ok(plugin)
    }

    /// The plug-in that a checkpoint names, looked for by its id.
    pub(crate) fn of_checkpoint(id: &str, config: &str) -> Result<Self, PluginError> {
        Self::of(find(Kind::TorchModel, id)?, config)
    }

    pub(crate) fn open(&self) -> Result<TorchModel, PluginError> {
        TorchModel::of(&self.found, &self.config, &libtorch())
    }
}

/// Reads the base model and the checkpoints of a run.
#[derive(Debug, Clone)]
pub struct Loader {
    pub device: Device,
    /// A model recipe for the base model, as text. A checkpoint has its own copy.
    pub recipe: Option<String>,
    /// The torch model that both are read with.
    pub torch_model: Option<TorchPlugin>,
    /// The weights are read by a learner, a share in each of several ranks ([`Model::load_apart`]).
    pub apart: bool,
    /// Arithmetic of a torch model; of others [`Model::set_precision`] decides.
    pub precision: Precision,
}

impl Loader {
    /// Reads models that difflow knows by name.
    pub fn new(device: Device) -> Self {
        Self { device, recipe: None, torch_model: None, apart: false, precision: Precision::Fp32 }
    }

    /// The base model.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn base(&self, dir: &Path) -> Result<Model, ModelError> {
        match (&self.torch_model, &self.recipe) {
            (Some(plugin), _) => Model::load_torch(dir, plugin, self.device, self.precision),
            (None, recipe) if self.apart => Model::load_apart(dir, recipe.as_deref(), self.device),
            (None, Some(recipe)) => Model::load_with_recipe(dir, recipe, self.device),
            (None, None) => Model::load(dir, self.device),
        }
    }

    /// A checkpoint.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn checkpoint(&self, dir: &Path) -> Result<Model, ModelError> {
        match &self.torch_model {
            Some(plugin) => Model::load_torch(dir, plugin, self.device, self.precision),
            None if self.apart => Model::load_apart(dir, None, self.device),
            None => Model::load(dir, self.device),
        }
    }
}
