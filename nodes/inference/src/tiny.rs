//! For tests, here and in other crates: a model of a few thousand random weights with a tokenizer of one token per
//! letter, in a folder.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use difflow_model::{Blocks, Device, Model, Objective};
use difflow_schema::{Component, Origin};
use difflow_text::Words;
use serde_json::{Value, json};

use crate::session::{Opening, Session};

/// Writes a model with token ids 0 to 36 and its tokenizer; with `mask`, 37 is the mask token. `spread` is that of the
/// weights: at 1e-6 every prediction is the uniform distribution.
pub fn write_model(dir: &Path, mask: bool, spread: f64) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 37, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "initializer_range": spread, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2
    });
    write(dir, &config, mask);
}

/// Writes the same with a table of 64 positions, beyond which the model cannot write.
pub fn write_model_with_learned_positions(dir: &Path) {
    let config = json!({
        "architectures": ["GPT2LMHeadModel"], "vocab_size": 37, "n_embd": 16, "n_layer": 2, "n_head": 4,
        "n_positions": 64, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2
    });
    write(dir, &config, true);
}

fn write(dir: &Path, config: &Value, mask: bool) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let mut model = Model::initialise(dir, 7, Device::Cpu).unwrap();
    if mask {
        model.add_mask_token(7).unwrap();
    }
    model.save(dir).unwrap();
}

/// Marks a model as trained left to right.
pub fn mark_left_to_right(dir: &Path) {
    mark(dir, Objective::Ar);
}

/// Marks a model as trained for an objective.
pub fn mark(dir: &Path, objective: Objective) {
    let mut model = Model::load(dir, Device::Cpu).unwrap();
    model.set_objective(objective);
    model.save(dir).unwrap();
}

/// Writes the origin.json of a checkpoint, with a change.
pub fn write_origin(dir: &Path, base: Option<&Path>, change: impl FnOnce(&mut Origin)) {
    let mut origin = Origin {
        base_model: base.unwrap_or(dir).to_owned(),
        model_recipe: None,
        torch_model: None,
        noise_schedule: Component { name: "linear".into(), config: "{}".into() },
        blocks: None,
        tokenizer_sha256: String::new(),
        bos: 1,
        eos: 2,
        sequence_length: 64,
        steps: 100,
        length_entropy: None,
        canvas: None,
        examples: None,
    };
    change(&mut origin);
    std::fs::write(dir.join("origin.json"), serde_json::to_string(&origin).unwrap()).unwrap();
}

/// The tokenizer: `<pad>` 0, `<bos>` 1, `<eos>` 2, then letters and signs; anything else is `?`.
pub fn tokenizer() -> Value {
    let mut vocab = json!({"<pad>": 0, "<bos>": 1, "<eos>": 2});
    for (id, letter) in (3..37).zip("abcdefghijklmnopqrstuvwxyz .,\n?![]".chars()) {
        vocab[letter.to_string()] = id.into();
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false},
        "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"}
    })
}

/// On the CPU, whatever the machine has.
pub fn opening() -> Opening {
    Opening { device: "cpu".into(), ..Opening::default() }
}

/// A model of [`write_model`], opened.
pub fn session(mask: bool, spread: f64) -> Session {
    let dir = folder();
    write_model(&dir, mask, spread);
    let session = Session::open(&dir, &opening()).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    session
}

/// The same, trained block by block, on rows that were cut as the noiser's key BLOCK_SIZE spells it.
pub fn block_session(blocks: Blocks, sizes: &str) -> Session {
    let dir = folder();
    write_model(&dir, true, 0.3);
    mark(&dir, Objective::Block(blocks));
    write_origin(&dir, None, |origin| origin.blocks = Some(sizes.to_owned()));
    let session = Session::open(&dir, &opening()).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    session
}

/// The tokenizer, opened.
pub fn words() -> Words {
    let path = folder().join("tokenizer.json");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, tokenizer().to_string()).unwrap();
    let words = Words::open(&path, 1, 2).unwrap();
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    words
}

/// A folder of its own name.
fn folder() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("difflow-tiny-{}-{number}", std::process::id()))
}
