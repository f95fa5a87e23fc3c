//! For the tests of several nodes, which take this file in by its path: a model of a few thousand random weights and a tokenizer
//! of one token a letter.
#![allow(clippy::unwrap_used)]

use difflow_model::{Device, Model};
use difflow_text::Words;
use serde_json::json;
use tempfile::TempDir;

/// A model with token ids 0 to 36 as a directory; with `mask`, 37 is the mask token.
pub fn write_model(dir: &std::path::Path, mask: bool, spread: f64) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 37, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "initializer_range": spread, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2
    });
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut model = Model::initialise(dir, 7, Device::Cpu).unwrap();
    if mask {
        model.add_mask_token(7).unwrap();
    }
    model.save(dir).unwrap();
}

/// `<pad>` 0, `<bos>` 1, `<eos>` 2, then letters and signs.
pub fn write_tokenizer(path: &std::path::Path) {
    let letters = "abcdefghijklmnopqrstuvwxyz .,\n?![]ABC";
    let mut vocab = serde_json::Map::new();
    for (id, name) in ["<pad>", "<bos>", "<eos>"].into_iter().enumerate() {
        vocab.insert(name.to_owned(), id.into());
    }
    for (id, letter) in (3..37).zip(letters.chars()) {
        vocab.insert(letter.to_string(), id.into());
    }
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false},
        "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"}
    });
    std::fs::write(path, tokenizer.to_string()).unwrap();
}

/// That tokenizer, opened.
pub fn words() -> Words {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tokenizer.json");
    write_tokenizer(&path);
    Words::open(path.to_str().unwrap(), "<bos>", "<eos>").unwrap()
}
