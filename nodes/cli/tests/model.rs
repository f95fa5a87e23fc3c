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

/// A checkpoint in a run, with what it records of itself and what was measured of it.
fn in_a_run() -> (tempfile::TempDir, std::path::PathBuf) {
    let (small, runs) = (small(), tempfile::tempdir().unwrap());
    let run = difflow_schema::run::RunDir::new(runs.path(), "mine");
    let step = run.checkpoint(30);
    std::fs::create_dir_all(&step).unwrap();
    for entry in std::fs::read_dir(small.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, step.join(path.file_name().unwrap())).unwrap();
    }
    let write = |path: &std::path::Path, value: Value| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    };
    let base = "/home/me/.cache/huggingface/hub/models--me--small/snapshots/0123";
    write(
        &step.join("origin.json"),
        json!({"base_model": base, "noise_schedule": {"name": "cosine", "config": "{}"}, "tokenizer_sha256": "",
        "bos": 1, "eos": 2, "sequence_length": 24, "steps": 30, "model_recipe": null, "torch_model": null, "length_entropy": null}),
    );
    let keys = json!({"corpus.SOURCES": "[{\"path\": \"a|b.parquet\"}]", "trainer.STEPS": 30, "trainer.ANNEAL_STEPS": null,
        "noiser.BLOCK_SIZE": "", "trainer.RUNS": "/home/me/runs"});
    write(&step.join("lineage.json"), json!({"difflow": "0.0.7", "configuration": keys}));
    write(&step.join("optimizer.safetensors"), json!("not for others"));
    write(&run.scores(0), json!({"step": 0, "metrics": {"nelbo": 9.25, "ar_loss": 1.5}}));
    write(&run.scores(30), json!({"step": 30, "metrics": {"nelbo": 4.125, "base_ar_loss": null}}));
    (runs, step)
}

/// What is published is what transformers and a reader of the card need: no optimizer, no path of this machine, no number that nobody measured.
#[test]
fn export_writes_the_model_and_a_card_of_what_is_known() {
    let (runs, step) = in_a_run();
    let out = runs.path().join("out");
    let words = |checkpoint: &std::path::Path, more: &[&str]| {
        let given = ["export", "--checkpoint", checkpoint.to_str().unwrap(), "--out", out.to_str().unwrap()];
        difflow(&[&given, more].concat())
    };
    let done = words(&runs.path().join("mine"), &["--license", "apache-2.0"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let wanted =
        ["README.md", "config.json", "model.safetensors", "modeling_difflow.py", "origin.json", "tokenizer.json"];
    assert_eq!(names, [&wanted[..], &["tokenizer_config.json"]].concat());
    assert_eq!(
        std::fs::read(out.join("model.safetensors")).unwrap(),
        std::fs::read(step.join("model.safetensors")).unwrap()
    );
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    let (front, body) = card.strip_prefix("---\n").unwrap().split_once("---\n").unwrap();
    assert_eq!(
        front,
        "license: \"apache-2.0\"\nbase_model: \"me/small\"\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n\
         - difflow\n- diffusion-language-model\n- masked-diffusion\n"
    );
    for part in [
        "# mine, step 30\n",
        "difflow 0.0.7, from me/small.",
        "mask tokens (id 30)",
        "| `corpus.SOURCES` | `[{\"path\": \"a\\|b.parquet\"}]` |\n",
        "| `trainer.STEPS` | `30` |\n",
        "| validation NELBO, nats per token | 9.2500 | 4.1250 |\n",
        "trust_remote_code=True",
    ] {
        assert!(body.contains(part), "{part}\n{body}");
    }
    for part in ["/home/me", "ANNEAL_STEPS", "BLOCK_SIZE", "1.5000", "| - |"] {
        assert!(!card.contains(part), "{part}\n{card}");
    }
    let origin: Value = serde_json::from_slice(&std::fs::read(out.join("origin.json")).unwrap()).unwrap();
    assert_eq!((&origin["base_model"], &origin["bos"]), (&json!("me/small"), &json!(1)));
    let again = words(&step, &[]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("must be new"));
    // Of a model of which nothing is known, nothing is said.
    let (plain, bare) = (small(), runs.path().join("bare"));
    let done = difflow(&["export", "--checkpoint", plain.path().to_str().unwrap(), "--out", bare.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let card = std::fs::read_to_string(bare.join("README.md")).unwrap();
    assert!(
        ["license", "base_model", "## Training", "## What came out", "null"].iter().all(|part| !card.contains(part)),
        "{card}"
    );
}
