//! Contracts of the model crate, through its public surface only.
#![allow(clippy::unwrap_used)]

mod adaptation;
mod decoding;
mod files;
mod goldens;
mod pretrained;
mod support;
