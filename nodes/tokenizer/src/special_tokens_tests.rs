//! Tests of `special_tokens`, together with the tokenizer that they need.

use serde_json::{Value, json};

use super::tests::world;
use super::*;

/// Ids in a folder with these files; 0 is `<bos>` and 1 `<eos>`.
fn found(files: &[(&str, Value)], keys: [Option<&str>; 2]) -> Result<(u32, u32), String> {
    let dir = tempfile::tempdir().unwrap();
    let config = world(dir.path(), 29);
    let [bos_token, eos_token] = keys.map(|key| key.map(str::to_owned));
    let config = Config { bos_token, eos_token, ..config };
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    let tokenizer = Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
    let found = SpecialTokens::find(&config, &tokenizer);
    found.map(|tokens| (tokens.bos, tokens.eos)).map_err(|problems| format!("{problems:?}"))
}

/// GPT-2 has one token for both, LLaMA two, LLaMA 3 a list, Qwen none that begins a document.
#[test]
fn the_models_own_files_name_them() {
    let config = |json: Value| [("config.json", json)];
    assert_eq!(found(&config(json!({"bos_token_id": 0, "eos_token_id": 1})), [None; 2]), Ok((0, 1)));
    assert_eq!(found(&config(json!({"bos_token_id": 1, "eos_token_id": [1, 0]})), [None; 2]), Ok((1, 1)));
    assert_eq!(found(&config(json!({"bos_token_id": null, "eos_token_id": 1})), [None; 2]), Ok((1, 1)));
    let beside = [
        ("config.json", json!({"eos_token_id": 5_000})),
        ("tokenizer_config.json", json!({"bos_token": {"content": "<bos>"}})),
        ("generation_config.json", json!({"bos_token_id": 1, "eos_token_id": 1})),
    ];
    assert_eq!(found(&beside, [None; 2]), Ok((0, 1)));
}

#[test]
fn a_key_goes_before_the_files() {
    let files = [("config.json", json!({"bos_token_id": 0, "eos_token_id": 1}))];
    assert_eq!(found(&files, [Some("<eos>"), None]), Ok((1, 1)));
    assert_eq!(found(&[], [Some("<bos>"), Some("<eos>")]), Ok((0, 1)));
}

#[test]
fn what_no_file_names_is_asked_for() {
    let text = found(&[], [None; 2]).unwrap_err();
    for part in ["EOS_TOKEN", "name it", "<bos>, <eos>"] {
        assert!(text.contains(part), "{part} not in {text}");
    }
    assert!(found(&[], [Some("<s>"), Some("</s>")]).unwrap_err().contains("</s>"));
}
