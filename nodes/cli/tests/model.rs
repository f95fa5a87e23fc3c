//! `difflow inspect` and `difflow score` as others call them.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::process::{Command, Output, Stdio};

use difflow_model::{Device, Model, Pattern};
use serde_json::{Value, json};

fn difflow(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_difflow")).args(words).output().unwrap()
}

fn found(words: &[&str]) -> Value {
    let output = difflow(words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A small diffusion model with a tokenizer of single words.
fn small() -> tempfile::TempDir {
    let (base, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
        "initializer_range": 0.3, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2});
    let vocab: serde_json::Map<String, Value> = (0..30).map(|i| (format!("w{i}"), i.into())).collect();
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}});
    std::fs::write(base.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(base.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut model = Model::initialise(base.path(), 5, Device::Cpu).unwrap();
    model.add_mask_token(5).unwrap();
    model.save(dir.path()).unwrap();
    dir
}

#[test]
fn inspect_model_says_what_the_folder_holds() {
    let dir = small();
    let words = ["inspect", "model", dir.path().to_str().unwrap(), "--batch", "4", "--seq-len", "32"];
    let found = found(&[&words[..], &["--json"]].concat());
    let parameters = Model::load(dir.path(), Device::Cpu).unwrap().parameter_count();
    for (key, wanted) in [
        ("architecture", json!("LlamaForCausalLM")),
        ("parameters", json!(parameters)),
        ("dtypes", json!({"F32": parameters})),
        ("mask_token_id", json!(30)),
        ("vocab_size", json!(31)),
        ("shift", json!(true)),
    ] {
        assert_eq!(found[key], wanted, "{key}");
    }
    let memory = |key: &str| found[key]["total_bytes"].as_u64().unwrap();
    assert!(memory("training_memory") > memory("training_memory_with_activation_checkpointing"));
    assert!(memory("training_memory_with_activation_checkpointing") > 16 * parameters);
    let table = String::from_utf8(difflow(&words).stdout).unwrap();
    assert!(table.contains("LlamaForCausalLM") && table.contains("training_memory.total_bytes"), "{table}");
}

#[test]
fn inspect_logits_prints_the_models_logits_under_each_pattern() {
    let dir = small();
    let model = Model::load(dir.path(), Device::Cpu).unwrap();
    let annealed = Pattern::Annealed { ratio: 0.3, seed: 9, draw: 0 };
    for (words, pattern) in [
        (vec!["--pattern", "causal"], Pattern::Causal),
        (vec!["--pattern", "full"], Pattern::Full),
        (vec!["--pattern", "annealed", "--ratio", "0.3", "--seed", "9"], annealed),
    ] {
        let start = ["inspect", "logits", "--model", dir.path().to_str().unwrap(), "--ids", "1,4,30,7", "--json"];
        let found = found(&[&start[..], &words].concat());
        assert_eq!(found["shape"], json!([4, 31]));
        let rows = found["logits"].as_array().unwrap();
        let logits: Vec<f32> =
            rows.iter().flat_map(|row| row.as_array().unwrap()).map(|x| x.as_f64().unwrap() as f32).collect();
        assert_eq!(logits, model.logits(&[1, 4, 30, 7], &pattern).unwrap(), "{words:?}");
    }
}

#[test]
fn score_counts_every_token_but_the_first_of_each_document() {
    let dir = small();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "w3 w4 w5\n\nw6 w7\n\nw8 w9 w10 w11 w12 w13").unwrap();
    let model = dir.path().to_str().unwrap();
    let score = |more: &[&str]| {
        found(&[&["score", "--model", model, "--text", text.to_str().unwrap(), "--json"], more].concat())
    };
    let all = score(&["--mode", "ar"]);
    assert_eq!(all["tokens"], 11);
    assert!(all["nats_per_token"].as_f64().unwrap() > 1.0 && all["stderr"].as_f64().unwrap() > 0.0);
    assert_eq!(score(&["--mode", "ar", "--limit", "2"])["tokens"], 5);
    assert_eq!(score(&["--mode", "ar", "--seq-len", "4"])["tokens"], 8);
    // Three documents with their first tokens are 14 tokens: two rows of six, five of each predicted.
    assert_eq!(score(&["--mode", "ar", "--packed", "--seq-len", "6"])["tokens"], 10);
    let bound = score(&["--mode", "nelbo", "--t-samples", "3", "--seed", "1"]);
    assert_eq!(bound["tokens"], 11);
    assert_eq!(bound, score(&["--mode", "nelbo", "--t-samples", "3", "--seed", "1"]));
    assert_ne!(bound, score(&["--mode", "nelbo", "--t-samples", "3", "--seed", "2"]));
    let output = difflow(&["score", "--model", model, "--parquet", text.to_str().unwrap(), "--mode", "ar"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("text.txt"));
}

/// The independent number of the data's README: 1.3226 nats a token over 54,716 tokens.
#[test]
fn stories260k_scores_as_computed_with_transformers() {
    let Some(data) = difflow_tests::real_data("stories260K on tinystories-val") else { return };
    let (model, text) = (data.join("models/stories260K"), data.join("text/tinystories-val.parquet"));
    let words = ["score", "--model", model.to_str().unwrap(), "--parquet", text.to_str().unwrap()];
    let found = found(&[&words[..], &["--mode", "ar", "--limit", "150", "--json"]].concat());
    assert_eq!(found["tokens"], 54_716);
    assert!((found["nats_per_token"].as_f64().unwrap() - 1.3226).abs() < 0.0005, "{found}");
}

/// `difflow … | head` is no crash.
#[test]
fn nobody_reading_the_output_is_no_error_message() {
    let ids = vec!["1"; 200].join(",");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/tiny/model");
    let mut child = Command::new(env!("CARGO_BIN_EXE_difflow"))
        .args(["inspect", "logits", "--model", model, "--ids", &ids, "--pattern", "causal", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    assert!(!child.wait().unwrap().success());
}
