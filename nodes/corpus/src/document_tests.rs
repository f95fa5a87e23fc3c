//! Conversations from sources of every shape, and what is said of bad ones.

use std::fs;

use serde_json::json;

use crate::config::Config;
use crate::corpus::Corpus;
use crate::document::Document;

fn read(config: &Config) -> Result<Vec<Document>, String> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let corpus = Corpus::open(config).await.map_err(|e| e.to_string())?;
        let mut reader = corpus.read().await.map_err(|e| e.to_string())?;
        let mut all = Vec::new();
        while let Some(document) = reader.next().await.map_err(|e| e.to_string())? {
            all.push(document);
        }
        Ok(all)
    })
}

/// What is read of JSON lines in a file of this name.
fn of(name: &str, lines: &[&str], change: impl FnOnce(&mut Config)) -> Result<Vec<Document>, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), lines.join("\n")).unwrap();
    let sources = json!([{"path": dir.path().join(name)}]).to_string();
    let mut config = Config { sources, ..Config::default() };
    change(&mut config);
    read(&config)
}

fn exchanges(config: &mut Config) {
    config.prompt_column = Some("question".into());
    config.response_column = "answer".into();
}

fn messages(config: &mut Config) {
    config.messages_column = Some("messages".into());
}

fn document(prompt: &str, response: &str) -> Document {
    let list = json!([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]);
    Document { text: format!("{prompt}\n{response}"), messages: Some(list.to_string()) }
}

#[test]
fn prompts_and_responses_are_conversations() {
    let lines = [r#"{"question": "2+2?", "answer": "4"}"#, r#"{"question": "", "answer": "x\ny"}"#];
    assert_eq!(of("a.jsonl", &lines, exchanges).unwrap(), [document("2+2?", "4"), document("", "x\ny")]);
    let csv = of("a.csv", &["question,answer", "a,b"], exchanges).unwrap();
    assert_eq!(csv, [document("a", "b")]);
    let sql = |config: &mut Config| {
        config.prompt_column = Some("prompt".into());
        config.sql =
            Some("SELECT 'Q: ' || question AS prompt, answer AS response FROM source WHERE answer <> '4'".into());
    };
    assert_eq!(of("a.jsonl", &lines, sql).unwrap(), [document("Q: ", "x\ny")]);
}

/// Lists of objects, as JSON lines and Parquet have them, and lists as text.
#[test]
fn messages_are_read_in_every_shape() {
    let lines = [
        r#"{"messages": [{"role": "user", "content": "a", "name": "n"}, {"role": "assistant", "content": "b"}]}"#,
        r#"{"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#,
    ];
    let lists = of("a.jsonl", &lines, messages).unwrap();
    assert_eq!(lists[1], document("c", "d"), "what another message has is not in this one");
    assert!(lists[0].messages.as_deref().unwrap().contains(r#""name":"n""#), "{lists:?}");
    let text = json!({"messages": lists[0].messages}).to_string();
    assert_eq!(of("a.jsonl", &[&text], messages).unwrap(), lists[..1]);
    let calls = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": [{"id": 1, "ok": true, "x": 0.5}]}]}"#;
    let found = of("a.jsonl", &[calls], messages).unwrap();
    assert!(
        found[0].messages.as_deref().unwrap().contains(r#""tool_calls":[{"id":1,"ok":true,"x":0.5}]"#),
        "{found:?}"
    );
}

#[test]
fn what_cannot_be_learned_from_is_named_with_its_row() {
    let good = r#"{"question": "a", "answer": "b"}"#;
    for (bad, parts) in [
        (r#"{"question": "a", "answer": ""}"#, ["RESPONSE_COLUMN", "column `answer`, row 1", "is empty"]),
        (r#"{"question": "a", "answer": "  "}"#, ["RESPONSE_COLUMN", "row 1", "is empty"]),
        (r#"{"question": "a"}"#, ["RESPONSE_COLUMN", "row 1", "is NULL"]),
        (r#"{"answer": "a"}"#, ["PROMPT_COLUMN", "column `question`, row 1", "is NULL"]),
    ] {
        let error = of("a.jsonl", &[good, bad], exchanges).unwrap_err();
        parts.iter().for_each(|part| assert!(error.contains(part), "{part} not in {error}"));
    }
    for (bad, part) in [
        (r#"[{"role": "assistant", "content": "b"}]"#, "roles are out of order: message 0"),
        (r#"[{"role": "user", "content": "b"}]"#, "ends with a message of `user`"),
        (
            r#"[{"role": "user", "content": "b"}, {"role": "assistant", "content": ""}]"#,
            "message 1 (counted from 0) is empty",
        ),
        ("[]", "no message"),
    ] {
        let line = |messages: &str| format!(r#"{{"messages": {messages}}}"#);
        let fine = line(r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#);
        let error = of("a.jsonl", &[&fine, &line(bad)], messages).unwrap_err();
        assert!(
            error.contains("MESSAGES_COLUMN") && error.contains("row 1") && error.contains(part),
            "{part} not in {error}"
        );
    }
}

#[test]
fn a_column_that_is_missing_is_named_with_those_that_there_are() {
    let line = r#"{"question": "a", "number": 3}"#;
    let error = of("a.jsonl", &[line], exchanges).unwrap_err();
    for part in ["RESPONSE_COLUMN: found `answer`", "no such column; its columns: question, number"] {
        assert!(error.contains(part), "{part} not in {error}");
    }
    let error = of("a.jsonl", &[line], |config| config.messages_column = Some("number".into())).unwrap_err();
    assert!(error.contains("MESSAGES_COLUMN: found `number`") && error.contains("it is Int64"), "{error}");
}
