//! Hub ids against a small server on loopback that speaks as the hub does: a list of files, redirect-free downloads with ranges,
//! and a token that must be shown.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use difflow_model::{Device, Model};

const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":37,"hidden_size":16,
    "intermediate_size":24,"num_hidden_layers":2,"num_attention_heads":4,"max_position_embeddings":64,"initializer_range":0.3}"#;
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct Hub {
    address: String,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

/// Serves `files` as the repository `tests/small`, revision `main`.
fn serve(files: BTreeMap<String, Vec<u8>>) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(&stream, &files, &log);
        }
    });
    Hub { address, asked }
}

fn answer(stream: &TcpStream, files: &BTreeMap<String, Vec<u8>>, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.map(|line| line.to_lowercase()).collect();
    let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
    log.lock().unwrap().push(path.clone());
    let reply = |status: &str, extra: &str, body: &[u8]| {
        let mut out = stream;
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n", body.len());
        let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(body));
    };
    if header("authorization:") != Some("bearer hf_secret") {
        return reply("401 Unauthorized", "", b"");
    }
    if path == "/api/models/tests/small/revision/main" {
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let info = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        return reply("200 OK", "Content-Type: application/json\r\n", info.as_bytes());
    }
    let Some(file) = path.strip_prefix("/tests/small/resolve/main/").and_then(|name| files.get(name)) else {
        return reply("404 Not Found", "", b"");
    };
    let range = header("range:").and_then(|range| range.strip_prefix("bytes="));
    let (from, to) = range.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let from: usize = from.parse().unwrap_or(0);
    let to = to.parse().map_or(file.len(), |to: usize| (to + 1).min(file.len()));
    let etag: u64 = file.iter().fold(7, |hash: u64, &byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let extra = format!(
        "ETag: \"{etag:016x}\"\r\nx-repo-commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{}\r\n",
        to.saturating_sub(1),
        file.len()
    );
    reply("206 Partial Content", &extra, &file[from..to]);
}

/// The files of a small model, its weights in two shards.
fn files() -> BTreeMap<String, Vec<u8>> {
    use safetensors::SafeTensors;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    Model::initialise(dir.path(), 3, Device::Cpu).unwrap().save(dir.path()).unwrap();
    let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (mut files, mut map) = (BTreeMap::new(), serde_json::Map::new());
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let some: Vec<_> =
            tensors.tensors().into_iter().enumerate().filter(|(i, _)| i % 2 == shard).map(|(_, t)| t).collect();
        some.iter().for_each(|(tensor, _)| _ = map.insert(tensor.clone(), name.clone().into()));
        files.insert(name, safetensors::serialize(some, None).unwrap());
    }
    files
        .insert("model.safetensors.index.json".into(), serde_json::json!({"weight_map": map}).to_string().into_bytes());
    files.insert("config.json".into(), CONFIG.into());
    files.insert("pytorch_model.bin".into(), b"not wanted".to_vec());
    files
}

fn difflow(hub: &str, home: &Path, token: &str, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_difflow"))
        .args(words)
        .env("HF_ENDPOINT", hub)
        .env("HF_HOME", home)
        .env("HF_TOKEN", token)
        .output()
        .unwrap()
}

#[test]
fn a_hub_id_is_fetched_once_and_then_read_from_the_cache() {
    let (hub, home) = (serve(files()), tempfile::tempdir().unwrap());
    let words = ["inspect", "logits", "--model", "tests/small", "--ids", "3,4,5", "--pattern", "full", "--json"];
    let run = |address: &str| difflow(address, home.path(), "hf_secret", &words);
    let first = run(&hub.address);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let found: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(found["shape"], serde_json::json!([3, 37]));
    let asked = std::mem::take(&mut *hub.asked.lock().unwrap());
    assert!(asked.iter().any(|path| path.ends_with("model-00002-of-00002.safetensors")), "{asked:?}");
    assert!(!asked.iter().any(|path| path.ends_with("pytorch_model.bin")), "{asked:?}");
    assert_eq!(run(&hub.address).stdout, first.stdout);
    let asked = std::mem::take(&mut *hub.asked.lock().unwrap());
    assert_eq!(asked, ["/api/models/tests/small/revision/main"], "only the list of files is asked for again");
    // Nobody listens there: the cache has a whole copy.
    assert_eq!(run("http://127.0.0.1:1").stdout, first.stdout);
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let (hub, home) = (serve(files()), tempfile::tempdir().unwrap());
    let error = |token: &str, id: &str| {
        let output = difflow(&hub.address, home.path(), token, &["inspect", "model", id]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = error("hf_wrong", "tests/small");
    assert!(text.contains("tests/small") && text.contains("401") && text.contains("HF_TOKEN"), "{text}");
    let text = error("hf_secret", "tests/other");
    assert!(text.contains("tests/other") && text.contains("404"), "{text}");
    let text = error("hf_secret", "nowhere");
    assert!(text.contains("nowhere") && text.contains("owner/name"), "{text}");
}
