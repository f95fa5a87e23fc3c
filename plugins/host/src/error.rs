//! What can be wrong with a plug-in.

use std::path::PathBuf;

/// Why a plug-in cannot be used, or what it did wrong.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No file, no permission, a folder.
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    /// The dynamic loader refused it.
    #[error("{}: the dynamic loader refuses it: {problem}", path.display())]
    Load { path: PathBuf, problem: String },
    /// Not a plug-in.
    #[error("{}: exports no symbol `difflow_plugin_entry_v1`, so it is not a difflow plug-in; see docs/PLUGINS.md", path.display())]
    NoEntry { path: PathBuf },
    /// Another ABI.
    #[error(
        "{library}: made for plug-in ABI {found_major}.{found_minor}, this difflow has {major}.{minor}; rebuild it with this difflow's header or SDK",
        major = difflow_plugin_abi::ABI_MAJOR,
        minor = difflow_plugin_abi::ABI_MINOR
    )]
    Abi { library: String, found_major: u32, found_minor: u32 },
    /// The table or a descriptor breaks the ABI.
    #[error("{library}: {problem}")]
    Malformed { library: String, problem: String },
    /// No such component.
    #[error("there is no {what}; {tried}")]
    NotFound { what: String, tried: String },
    /// Two libraries with the same id.
    #[error("component `{id}` is in {first} and in {second}; remove one of them, or name the file: PATH#{id}", first = first.display(), second = second.display())]
    Duplicate { id: String, first: PathBuf, second: PathBuf },
    /// The component is of another kind.
    #[error("component `{id}` is of kind {found}, wanted {wanted}")]
    Kind { id: String, found: String, wanted: String },
    /// A function that must be there is NULL.
    #[error("component `{id}`: its table lacks the mandatory function `{function}`")]
    MissingFunction { id: String, function: &'static str },
    /// `create` refused the configuration.
    #[error("component `{id}`: wrong configuration at `{pointer}`: {message}")]
    Config { id: String, pointer: String, message: String },
    /// A function answered an error.
    #[error("component `{id}`: {function} failed: {message}")]
    Call { id: String, function: &'static str, message: String },
    /// A torch model for another libtorch.
    #[error(
        "component `{id}`: built against libtorch {found}, this difflow has {wanted}, and tensors of two cannot be shared; build it again \
         with LIBTORCH naming this difflow's libtorch (`. bin/env.sh`)"
    )]
    Libtorch { id: String, found: String, wanted: String },
    /// A function answered something impossible.
    #[error("component `{id}`: {function} gave {found}; wanted {wanted}")]
    Answer { id: String, function: &'static str, found: String, wanted: String },
}

impl PluginError {
    /// The key to blame: `key`, which names the plug-in, or `key` with `_CONFIG` when its configuration is wrong.
    pub fn key(&self, key: &str) -> String {
        if matches!(self, Self::Config { .. }) { format!("{key}_CONFIG") } else { key.to_owned() }
    }
}
