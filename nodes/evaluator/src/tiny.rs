//! For tests: a model of a few thousand random weights and a tokenizer of one token a letter.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/src/tiny.rs"]
mod files;

use difflow_model::{Device, Model};
use tempfile::TempDir;

pub use files::{words, write_model, write_tokenizer};

/// Token ids 0 to 36; with `mask`, 37 is the mask token.
pub fn model(mask: bool) -> Model {
    build(mask, 0.3)
}

/// A model whose every prediction is the uniform distribution (to rounding).
pub fn uniform() -> Model {
    build(true, 1e-6)
}

fn build(mask: bool, spread: f64) -> Model {
    let dir = TempDir::new().unwrap();
    write_model(dir.path(), mask, spread);
    Model::load(dir.path(), Device::Cpu).unwrap()
}
