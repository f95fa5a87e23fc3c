//! Files that somebody else made, or damaged: they are read or refused. Nothing panics, and no memory is taken because a header
//! claims it.

use std::fs;
use std::path::Path;

use difflow_model::{Device, Model, Pattern, Summary};
use tempfile::TempDir;

use crate::support::{GPT2, LLAMA, QWEN3, config_dir, model, read};

/// splitmix64
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((x ^ (x >> 29)) % n as u64) as usize
    }
}

/// The most memory that this process has held since [`forget_peak`], in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() >> 10
}

/// Tests before this one in the same process may have held more than anything that is looked for here. Returns what is held now.
fn forget_peak() -> u64 {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// Whether the folder is a model that also computes something.
fn works(dir: &Path) -> bool {
    _ = Summary::read(dir);
    Model::load(dir, Device::Cpu).is_ok_and(|model| model.logits(&[3, 4, 5], &Pattern::Full).is_ok())
}

fn with_header(dir: &Path, header: &str, length: u64, data: usize) {
    let bytes = [&length.to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
    fs::write(dir.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn what_a_safetensors_header_claims_is_not_believed() {
    let dir = config_dir(LLAMA);
    let tensor = |shape: &str, offsets: &str| {
        format!(r#"{{"model.embed_tokens.weight":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let claims = [
        tensor("[37,16]", "[0,18446744073709551615]"),
        tensor("[37,16]", "[0,4611686018427387904]"),
        tensor("[4294967296,4294967296]", "[0,64]"),
        tensor("[1099511627776]", "[0,4398046511104]"),
        tensor("[37,16]", "[64,0]"),
        tensor("[-1,16]", "[0,64]"),
        tensor("[]", "[0,0]"),
        format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        "{\"a\":".repeat(100_000),
        "null".to_owned(),
    ];
    let before = forget_peak();
    for header in &claims {
        with_header(dir.path(), header, header.len() as u64, 2368);
        let error = Model::load(dir.path(), Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
    for length in [0, 1, 1 << 40, u64::MAX, u64::MAX - 7] {
        with_header(dir.path(), &claims[0], length, 2368);
        assert!(Model::load(dir.path(), Device::Cpu).is_err(), "header of {length} bytes");
    }
    assert!(peak() < before + 200, "{before} MiB before, {} after", peak());
}

#[test]
fn what_config_json_claims_is_not_allocated() {
    let dir = TempDir::new().unwrap();
    model(LLAMA, false).save(dir.path()).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&read(&dir.path().join("config.json"))).unwrap();
    let before = forget_peak();
    let keys = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "head_dim",
    ];
    for key in keys {
        for value in [0u64, 1, 3, 1 << 31, 1 << 40, 1 << 62, u64::MAX] {
            let mut changed = config.clone();
            changed[key] = value.into();
            fs::write(dir.path().join("config.json"), changed.to_string()).unwrap();
            works(dir.path());
        }
    }
    assert!(peak() < before + 200, "{before} MiB before, {} after", peak());
}

/// 600 mutations, the same ones each time.
#[test]
fn no_damaged_model_folder_makes_the_loader_panic() {
    let pieces =
        ["0", "-1", "18446744073709551615", "null", "[]", "{}", "\"\"", "1e999", "\"yarn\"", "F64", "true", ","];
    let mut random = Random(5);
    let before = forget_peak();
    for json in [LLAMA, GPT2, QWEN3] {
        let dir = TempDir::new().unwrap();
        model(json, true).save(dir.path()).unwrap();
        for name in ["model.safetensors", "config.json"] {
            let (path, mut worked) = (dir.path().join(name), 0);
            let good = read(&path);
            // Of the weights' file the header: what follows are numbers.
            let header = if name == "config.json" {
                good.len()
            } else {
                8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize
            };
            for _ in 0..100 {
                let mut bytes = good.clone();
                for _ in 0..1 + random.below(3) {
                    let at = random.below(header.min(bytes.len()));
                    match random.below(5) {
                        0 => bytes[at] = random.below(256) as u8,
                        1 => bytes[at] = b'0' + random.below(10) as u8,
                        2 => drop(bytes.drain(at..(at + 1 + random.below(9)).min(bytes.len()))),
                        3 if random.below(10) == 0 => bytes.truncate(at + 1),
                        _ => drop(bytes.splice(at..at, pieces[random.below(pieces.len())].bytes())),
                    }
                }
                fs::write(&path, &bytes).unwrap();
                worked += usize::from(works(dir.path()));
            }
            assert!(worked < 100, "no mutation of {name} was noticed");
            fs::write(&path, good).unwrap();
            assert!(works(dir.path()));
        }
    }
    assert!(peak() < before + 300, "{before} MiB before, {} after", peak());
}
