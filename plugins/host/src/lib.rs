//! Finds, loads, describes and calls plug-ins, and checks their answers. Built-in components are handled the same
//! way: see `difflow-plugin-builtin`.
//!
//! | to | use |
//! |---|---|
//! | find what a key of a dataflow file refers to | [`find`] |
//! | inspect a library | [`Library::open`], [`Library::components`] |
//! | use a component | [`NoiseSchedule`], [`AnnealingSchedule`], [`BatchTransform`], [`ModelRecipe`], [`TorchModel`] |
//! | test a plug-in | [`conformance`] |
//!
//! No answer of a plug-in is trusted: every number is checked, and the error message gives the component, the
//! function and the value.

mod annealing;
mod arrow_export;
mod arrow_import;
mod call;
pub mod conformance;
mod crash;
mod elf;
mod error;
mod find;
mod instance;
mod library;
mod noise;
mod python;
mod recipe;
mod record;
mod torch;
mod transform;

pub use annealing::AnnealingSchedule;
pub use error::PluginError;
pub use find::{Found, candidates, find, is_file, search_path};
pub use instance::Instance;
pub use library::{Component, Kind, Library};
pub use noise::NoiseSchedule;
pub use recipe::ModelRecipe;
pub use record::Record;
pub use torch::{Libtorch, TorchModel};
pub use transform::{BatchTransform, Transforms};
