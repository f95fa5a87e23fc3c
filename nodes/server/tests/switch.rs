//! Another model while requests come in: none is lost, and each text is of one model from its start to its end.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use difflow_inference::tiny;
use difflow_server::{Limits, Server, Settings};
use difflow_tests::Http;
use serde_json::{Value, json};

fn open(limits: Limits) -> (Server, Http) {
    let (token, name) = (String::new(), "tiny".to_owned());
    let server = Server::open(Settings { address: "127.0.0.1:0".parse().unwrap(), token, name, limits }).unwrap();
    let port = server.url().trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    (server, Http::new(port))
}

fn write(http: &Http, seed: u64) -> String {
    let body = json!({"prompt": "a day", "max_tokens": 30, "decoder": "first-hitting", "seed": seed});
    let answer = http.post("/v1/completions", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// Two models with the same tokens.
fn models(folder: &Path) -> [std::path::PathBuf; 2] {
    let models = ["one", "two"].map(|name| folder.join(name));
    tiny::write_model(&models[0], true, 0.3);
    tiny::write_model(&models[1], true, 0.5);
    models
}

#[test]
fn a_switch_in_the_middle_loses_nothing_and_mixes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path());
    let (server, http) = open(Limits { rows: 4, ..Limits::default() });
    assert_eq!(http.get("/health").status, 503);
    let early = http.post("/v1/completions", &json!({"prompt": "a"}));
    assert!(early.status == 503 && early.head.contains("retry-after"), "{early:?}");
    server.serve(&models[0], &tiny::opening()).unwrap();
    let first: Vec<String> = (0..8).map(|seed| write(&http, seed)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..8)
        .map(|seed| {
            let (http, stop) = (http.clone(), stop.clone());
            thread::spawn(move || {
                let mut texts = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    texts.push(write(&http, seed));
                }
                texts.push(write(&http, seed));
                texts
            })
        })
        .collect();
    let served = |line: &str| http.get("/metrics").body.lines().any(|other| other == line);
    for turn in 0..7 {
        server.serve(&models[1 - turn % 2], &tiny::opening()).unwrap();
        // One that is offered before the last one is served takes its place.
        while !served(&format!("difflow_models_total {}", turn + 2)) {
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    let second: Vec<String> = (0..8).map(|seed| write(&http, seed)).collect();
    assert_ne!(first, second);
    let mut seen = BTreeSet::new();
    for (seed, asking) in asking.into_iter().enumerate() {
        for text in asking.join().unwrap() {
            assert!(text == first[seed] || text == second[seed], "seed {seed}: {text} is of neither model");
            seen.insert(text == first[seed]);
        }
    }
    assert_eq!(seen.len(), 2, "only one model wrote");
    server.end();
}

/// One that cannot be served leaves the other where it is.
#[test]
fn a_model_that_cannot_be_opened_or_has_other_tokens_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path());
    let (server, http) = open(Limits::default());
    server.serve(&models[0], &tiny::opening()).unwrap();
    let text = write(&http, 1);
    assert!(server.serve(&folder.path().join("nowhere"), &tiny::opening()).is_err());
    let file = models[1].join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let vocabulary = &mut tokenizer["model"]["vocab"];
    let (a, b) = (vocabulary["a"].clone(), vocabulary["b"].clone());
    (vocabulary["a"], vocabulary["b"]) = (b, a);
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    let error = server.serve(&models[1], &tiny::opening()).unwrap_err().to_string();
    assert!(error.contains("`a`"), "{error}");
    assert_eq!(write(&http, 1), text);
    server.end();
}
