//! For unit tests: models with random weights, small enough for any test.
#![allow(clippy::unwrap_used)]

use crate::{Device, Model};

/// A LLaMA with fewer heads for keys and values than for queries.
pub const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
    "initializer_range":0.3,"tie_word_embeddings":true}"#;

/// The model of a config.json.
pub fn model(json: &str) -> Model {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("config.json"), json).unwrap();
    Model::initialise(dir.path(), 7, Device::Cpu).unwrap()
}
