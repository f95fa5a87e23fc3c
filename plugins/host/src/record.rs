//! What a run records about a plug-in that it used.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::PluginError;
use crate::find::{Found, find};
use crate::library::Kind;

/// Which plug-in a key named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Id of the component.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its library; `builtin` for built-in ones.
    pub path: String,
    /// Of the library; built-in components have the version only.
    pub sha256: Option<String>,
    /// The configuration.
    pub config: Value,
}

impl Record {
    /// The record of what `value` names.
    ///
    /// # Errors
    /// When it names nothing.
    pub fn new(kind: Kind, value: &str, config: &str) -> Result<Self, PluginError> {
        Ok(Self::of(&find(kind, value)?, config))
    }

    /// The record of a found component.
    pub fn of(found: &Found, config: &str) -> Self {
        let Found { library, component } = found;
        let config = serde_json::from_str(config).unwrap_or_else(|_| Value::Object(Default::default()));
        let (id, version) = (component.id.clone(), component.version.clone());
        Self { id, version, path: library.name(), sha256: library.sha256.clone(), config }
    }

    /// How this plug-in differs from the one of an earlier start of the run; `None` when it is the same binary.
    pub fn difference(&self, before: &Self) -> Option<String> {
        let short = |sha256: &Option<String>| {
            sha256.as_deref().map_or("none".to_owned(), |hex| hex[..12.min(hex.len())].to_owned())
        };
        if (&self.id, &self.version, &self.sha256) == (&before.id, &before.version, &before.sha256) {
            return None;
        }
        Some(format!(
            "plug-in `{}` {} (sha256 {}) is not the `{}` {} (sha256 {}) that this run began with; its results may differ",
            self.id,
            self.version,
            short(&self.sha256),
            before.id,
            before.version,
            short(&before.sha256)
        ))
    }
}
