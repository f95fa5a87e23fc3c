//! Chat templates of well-known formats against `transformers`: its texts are stored beside the templates (tests/chat/goldens.py made them); where
//! `DIFFLOW_PYTHON` names a Python that has it, they are made anew.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use difflow_tests::skip;
use difflow_text::{ChatError, ChatTemplate, Turns};
use serde_json::{Map, Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat")
}

fn read(name: &str) -> Map<String, Value> {
    serde_json::from_str(&fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

fn template(file: &Path) -> Result<ChatTemplate, ChatError> {
    let model = tempfile::tempdir().unwrap();
    let special =
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>", "add_bos_token": true});
    fs::write(model.path().join("tokenizer_config.json"), special.to_string()).unwrap();
    ChatTemplate::of_file(file, model.path(), "2024-07-26".parse().unwrap())
}

fn answers(messages: &[Value]) -> Vec<usize> {
    (0..messages.len()).filter(|&at| messages[at]["role"] == "assistant").collect()
}

/// Bytes of places in characters.
fn bytes(text: &str, spans: &Value) -> Vec<Range<usize>> {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let place = |at: &Value| starts[at.as_u64().unwrap() as usize];
    spans.as_array().unwrap().iter().map(|span| place(&span[0])..place(&span[1])).collect()
}

#[test]
fn templates_of_ten_models_give_the_texts_and_answers_of_transformers() {
    let (goldens, conversations) = (read("goldens.json"), read("conversations.json"));
    let (mut seen, mut refused) = (0, 0);
    for (case, golden) in &goldens {
        let (name, conversation) = case.split_once(' ').unwrap();
        let template = template(&folder().join(format!("templates/{name}.jinja"))).unwrap();
        let messages = conversations[conversation].as_array().unwrap();
        let whole = template.render(messages, false);
        let Some(wanted) = golden["text"].as_str() else {
            let error = whole.unwrap_err().to_string();
            assert!(error.contains(golden["error"].as_str().unwrap()), "{case}: {error}, wanted {golden}");
            refused += 1;
            continue;
        };
        assert_eq!(whole.unwrap().text, wanted, "{case}");
        let prompt = template.render(&messages[..messages.len() - 1], true).unwrap().text;
        assert_eq!(prompt, golden["prompt"].as_str().unwrap(), "{case}");
        let together = template.examples(messages, &answers(messages), Turns::Together);
        if golden["spans"].is_null() {
            assert!(matches!(together, Err(ChatError::NoPrefix(_))), "{case}: {together:?}");
        } else {
            let together = together.unwrap().remove(0);
            assert_eq!((together.text.as_str(), together.answers), (wanted, bytes(wanted, &golden["spans"])), "{case}");
        }
        seen += 1;
    }
    assert!(
        seen >= 50 && refused >= 5 && fs::read_dir(folder().join("templates")).unwrap().count() == 11,
        "{seen} {refused}"
    );
}

/// The stored texts are those of the `transformers` at hand.
#[test]
fn the_stored_texts_are_those_of_transformers() {
    let Some(python) = std::env::var_os("DIFFLOW_PYTHON") else {
        return skip(
            "transformers",
            "chat templates rendered by transformers",
            "DIFFLOW_PYTHON names no Python that has it",
        );
    };
    let output = Command::new(python).arg(folder().join("goldens.py")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Map<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made, read("goldens.json"));
}

/// chat_template.jinja comes before tokenizer_config.json; of several templates there, `default` is meant.
#[test]
fn a_models_template_is_found_where_transformers_looks_for_it() {
    let model = tempfile::tempdir().unwrap();
    let of_model = || ChatTemplate::of_model(model.path(), "2024-07-26".parse().unwrap());
    let text = || of_model().unwrap().unwrap().render(&[], false).unwrap().text;
    assert!(of_model().unwrap().is_none());
    let config = |template: Value| {
        let config = json!({"bos_token": "<s>", "chat_template": template});
        fs::write(model.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    };
    config(Value::Null);
    assert!(of_model().unwrap().is_none());
    config("one {{ bos_token }}{{ pad_token }}".into());
    assert_eq!(text(), "one <s>");
    config(json!([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]));
    assert_eq!(text(), "b");
    fs::write(model.path().join("chat_template.jinja"), "c\n").unwrap();
    assert_eq!(text(), "c");
    fs::write(model.path().join("chat_template.jinja"), "{% if %}").unwrap();
    let error = of_model().err().unwrap().to_string();
    assert!(error.contains("chat_template.jinja cannot be read"), "{error}");
    fs::remove_file(model.path().join("chat_template.jinja")).unwrap();
    fs::write(model.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(of_model().err().unwrap().to_string().contains("tokenizer_config.json: EOF"));
}
