//! Contracts of the model crate, through its public surface only.
#![allow(clippy::unwrap_used)]

mod adaptation;
mod decoding;
mod distribution;
mod files;
mod gaps;
mod goldens;
mod pretrained;
mod support;
