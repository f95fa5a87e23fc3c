//! One error type for everything that is asked of a model.

use std::path::PathBuf;

use difflow_model::ModelError;
use difflow_plugin_host::PluginError;
use difflow_text::TextError;

use crate::checker::CheckerError;

/// What can go wrong between a checkpoint's folder and an answer.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// There is no model at the path.
    #[error(
        "found `{found}`; allowed: a folder with config.json, that of a run with checkpoints, or a hub id (owner/name)"
    )]
    NoModel { found: String },
    /// The hub does not provide it.
    #[error(transparent)]
    Hub(#[from] difflow_hub::HubError),
    /// An error of the model, or of a batch for it.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An error of the plug-in that knows the model.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// An error of the tokenizer, a file of gaps or a text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// An error of the command that judges texts.
    #[error(transparent)]
    Checker(#[from] CheckerError),
    /// A checkpoint's origin.json or lineage.json is damaged.
    #[error("{}: {reason}; allowed: the file as the trainer wrote it", path.display())]
    Origin { path: PathBuf, reason: String },
    /// generation_config.json of a checkpoint says nothing that can be used.
    #[error("{}: {reason}", path.display())]
    Generation { path: PathBuf, reason: String },
    /// The model cannot be asked this.
    #[error("{what}: found {found}; wanted: {wanted}")]
    Unfit { what: &'static str, found: String, wanted: String },
}

impl InferenceError {
    pub(crate) fn unfit(what: &'static str, found: impl ToString, wanted: impl ToString) -> Self {
        Self::Unfit { what, found: found.to_string(), wanted: wanted.to_string() }
    }
}
