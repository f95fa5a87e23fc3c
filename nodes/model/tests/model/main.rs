//! Contracts of the model crate, through its public surface only.
#![allow(clippy::unwrap_used)]

mod adaptation;
mod adapters;
mod block_decoding;
mod blocks;
mod config_keys;
mod decoding;
mod distribution;
mod dtypes;
mod experts;
mod families;
mod files;
mod gaps;
mod goldens;
mod hostile;
mod objective;
mod open_end;
mod optimizer;
mod pretrained;
mod prompts;
mod recipes;
mod speculation;
mod steps;
mod support;
mod training;
mod transformers;
