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

/// Whether an error, or what it comes from, is that a device or the host had no memory.
pub fn lacks_memory(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let model = match error.downcast_ref() {
            Some(InferenceError::Model(model)) => Some(model),
            _ => error.downcast_ref(),
        };
        matches!(model, Some(ModelError::OutOfMemory { .. }))
    })
}

impl InferenceError {
    pub(crate) fn unfit(what: &'static str, found: impl ToString, wanted: impl ToString) -> Self {
        Self::Unfit { what, found: found.to_string(), wanted: wanted.to_string() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("checkpoint 7")]
    struct Told(#[source] InferenceError);

    #[test]
    fn a_lack_of_memory_is_seen_through_what_was_said_of_it() {
        let lack = || ModelError::OutOfMemory { detail: "CUDA out of memory".into() };
        let told = Told(InferenceError::from(lack()));
        assert!(lacks_memory(&lack()) && lacks_memory(&InferenceError::from(lack())) && lacks_memory(&told));
        assert!(!lacks_memory(&InferenceError::unfit("what", 1, 2)) && !lacks_memory(&ModelError::NoMaskToken));
    }
}
