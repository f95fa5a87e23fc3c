//! Model recipes from plug-ins.

use difflow_plugin_abi as abi;
use serde_json::{Map, Value};

use crate::error::PluginError;
use crate::find::{Found, find};
use crate::instance::Instance;
use crate::library::Kind;

/// How to read a base model that difflow does not know by name.
#[derive(Debug)]
pub struct ModelRecipe {
    /// The recipe as JSON.
    pub json: Map<String, Value>,
    instance: Instance,
}

impl ModelRecipe {
    /// Finds a model recipe and asks it.
    ///
    /// # Errors
    /// What is wrong with value, configuration or recipe.
    pub fn open(value: &str, config: &str) -> Result<Self, PluginError> {
        Self::of(&find(Kind::ModelRecipe, value)?, config)
    }

    /// The recipe of a found component.
    ///
    /// # Errors
    /// When it fails or gives no JSON object.
    pub fn of(found: &Found, config: &str) -> Result<Self, PluginError> {
        let instance = Instance::create(found, Kind::ModelRecipe, config)?;
        let table: abi::ModelRecipe = instance.table()?;
        let recipe = table.recipe.ok_or_else(|| instance.missing("recipe"))?;
        let mut out = abi::Str { ptr: std::ptr::null(), len: 0 };
        // SAFETY: one string to write to.
        instance.call("recipe", |instance, error| unsafe { recipe(instance, &raw mut out, error) })?;
        if out.ptr.is_null() {
            return Err(instance.wrong("recipe", "no text", "a JSON object"));
        }
        // SAFETY: the ABI says that the text stays until `destroy`.
        let bytes = unsafe { out.bytes() };
        match serde_json::from_slice(bytes) {
            Ok(json) => Ok(Self { json, instance }),
            Err(e) => Err(instance.wrong("recipe", format!("a text that is no JSON object ({e})"), "a JSON object")),
        }
    }

    /// The text of the recipe that MODEL_RECIPE names; `None` when it is empty.
    ///
    /// # Errors
    /// As [`ModelRecipe::open`].
    pub fn named(value: &str, config: &str) -> Result<Option<String>, PluginError> {
        if value.is_empty() { Ok(None) } else { Self::open(value, config).map(|recipe| Some(recipe.text())) }
    }

    /// The recipe as text.
    pub fn text(&self) -> String {
        Value::Object(self.json.clone()).to_string()
    }

    /// The component behind it.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }
}
