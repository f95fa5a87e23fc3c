//! Contracts of the model crate, through its public surface only.
#![allow(clippy::unwrap_used)]

mod adaptation;
mod decoding;
mod dtypes;
mod files;
mod goldens;
mod objective;
mod pretrained;
mod recipes;
mod support;
mod training;
mod transformers;
