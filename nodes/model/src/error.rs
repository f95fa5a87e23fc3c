//! One error type for everything that reads, runs or writes a model.

use std::path::{Path, PathBuf};

/// What can go wrong with a model. Every message names the file, the key or tensor, what was found and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or directory could not be read.
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    /// A file or directory could not be written.
    #[error("cannot write {path}: {source}; free space or choose another directory")]
    Write { path: PathBuf, source: std::io::Error },
    /// A JSON file does not parse.
    #[error("{path} is not valid JSON: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    /// A key of config.json is missing or has a value that no supported model has.
    #[error("{file}: key `{key}`: found {found}, wanted {wanted}")]
    Config { file: PathBuf, key: String, found: String, wanted: String },
    /// The directory holds a config.json but no weights in a form that can be read.
    #[error("{path} has no model.safetensors and no model.safetensors.index.json{hint}")]
    NoWeights { path: PathBuf, hint: String },
    /// A file is shorter or longer than its own header says.
    #[error("{file} is truncated or damaged: {detail}; copy or download it again")]
    Damaged { file: PathBuf, detail: String },
    /// A tensor that the architecture needs is in none of the files.
    #[error(
        "tensor `{tensor}` is missing from {file} (wanted shape {wanted:?}); does config.json belong to these weights?"
    )]
    MissingTensor { tensor: String, file: PathBuf, wanted: Vec<i64> },
    /// The files hold tensors that the architecture has no place for.
    #[error("{file} holds {} tensor(s) that config.json has no place for: {}; is the architecture right?", .tensors.len(), list(.tensors))]
    ExtraTensors { file: PathBuf, tensors: Vec<String> },
    /// A tensor has another shape than config.json implies.
    #[error("tensor `{tensor}` in {file}: found shape {found:?}, wanted {wanted:?} by config.json")]
    Shape { tensor: String, file: PathBuf, found: Vec<i64>, wanted: Vec<i64> },
    /// A tensor has an element type that cannot be turned into fp32.
    #[error(
        "tensor `{tensor}` in {file}: found dtype {found}, wanted one of F64, F32, F16, BF16, F8_E4M3, F8_E5M2; dequantise it first"
    )]
    Dtype { tensor: String, file: PathBuf, found: String },
    /// A tied model's file has an output head that differs from its embedding.
    #[error(
        "tensor `{tensor}` in {file} differs from the embedding though config.json ties them; set \"tie_word_embeddings\": false"
    )]
    NotTied { tensor: String, file: PathBuf },
    /// A model recipe does not parse or does not fit its base.
    #[error("{file}: {detail}")]
    Recipe { file: PathBuf, detail: String },
    /// A plug-in's torch model cannot be used, or did something wrong.
    #[error(transparent)]
    Plugin(#[from] difflow_plugin_host::PluginError),
    /// An optimizer state does not belong to the model it is loaded into.
    #[error("{file}: {detail}; the optimizer state belongs to another model or optimizer")]
    OptimizerState { file: PathBuf, detail: String },
    /// A checkpoint was trained with another optimizer.
    #[error("{file} is the state of {found}, not of {wanted}; go on with the optimizer that it was trained with")]
    OtherOptimizer { file: PathBuf, found: String, wanted: &'static str },
    /// A batch, prompt or canvas does not fit the model.
    #[error("{what}: found {found}, wanted {wanted}")]
    Input { what: String, found: String, wanted: String },
    /// The model has no mask token, so it cannot be trained or sampled as a diffusion model.
    #[error(
        "the model has no mask token: add one with `Model::add_mask_token`, or set `difflow.mask_token_id` in config.json"
    )]
    NoMaskToken,
    /// The asked-for device does not exist on this machine.
    #[error("device `{asked}`: {reason}; allowed: auto, cpu, cuda, cuda:N")]
    Device { asked: String, reason: String },
    /// The device ran out of memory.
    #[error(
        "out of memory ({detail}); lower MICRO_BATCH (and raise ACCUMULATION by the same factor) or SEQUENCE_LENGTH, or set \
         ACTIVATION_CHECKPOINTING: true or PRECISION: bf16"
    )]
    OutOfMemory { detail: String },
    /// Nobody waits for it any more.
    #[error("the work was ended before it was done")]
    Ended,
    /// A rank cannot meet the others, or one of them was lost.
    #[error("{0}")]
    Ranks(String),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(String),
}

impl ModelError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Write { path: path.to_owned(), source }
    }

    /// What torch says of a failure: the C++ side appends its own stack; the first line is what a person can use.
    pub(crate) fn of_torch(text: &str) -> Self {
        let first = text.lines().next().unwrap_or_default();
        // In a panic's text an end of line is written out.
        let first = first.split("\\n").next().unwrap_or_default().to_owned();
        if first.contains("out of memory") || first.contains("can't allocate memory") {
            Self::OutOfMemory { detail: first }
        } else {
            Self::Torch(first)
        }
    }

    pub(crate) fn input(what: impl Into<String>, found: impl ToString, wanted: impl ToString) -> Self {
        Self::Input { what: what.into(), found: found.to_string(), wanted: wanted.to_string() }
    }
}

impl From<tch::TchError> for ModelError {
    fn from(error: tch::TchError) -> Self {
        Self::of_torch(&error.to_string())
    }
}

/// At most five names, and how many more there are.
fn list(names: &[String]) -> String {
    let shown = names.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_says_which_keys_to_lower() {
        let refused = tch::Tensor::f_empty([1 << 50], (tch::Kind::Float, tch::Device::Cpu)).unwrap_err();
        let error = ModelError::from(refused);
        assert!(matches!(error, ModelError::OutOfMemory { .. }), "{error}");
        let text = error.to_string();
        assert!(
            ["MICRO_BATCH", "SEQUENCE_LENGTH", "ACTIVATION_CHECKPOINTING"].iter().all(|key| text.contains(key)),
            "{text}"
        );
    }
}
