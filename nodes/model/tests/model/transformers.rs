//! Checkpoints read by `transformers`. `DIFFLOW_PYTHON` names a Python that has it; without one this says what it skips.

use std::path::Path;
use std::process::Command;

use difflow_model::{AdamW, Device, Learner, Model, Objective, ObjectiveOptions, Pattern};
use difflow_tests::skip;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::goldens::{numbers, relative};
use crate::support::{GPT2, LLAMA, QWEN3, config_dir, noised, tokens};

fn read_by_transformers(dirs: &[TempDir], ids: &[u32]) -> Option<Vec<Value>> {
    let Some(python) = std::env::var_os("DIFFLOW_PYTHON") else {
        skip("transformers", "checkpoints read by transformers", "DIFFLOW_PYTHON names no Python that has it");
        return None;
    };
    let list = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/check.py");
    let dirs = dirs.iter().map(TempDir::path);
    let output = Command::new(python).arg(script).arg(list).args(dirs).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// A model of each family, as either version of `transformers` spells it, and its class.
fn models() -> Vec<(String, String)> {
    let golden: Value = serde_json::from_str(include_str!("../goldens/transformers.json")).unwrap();
    let plain = [LLAMA, GPT2, QWEN3].map(|json| serde_json::from_str(json).unwrap());
    // Version 4 does not load the one that is left out.
    let left = |case: &&Value| case.get("recipe").is_none() && case["title"] != "phi-3 longrope with its own factor";
    let cases = golden["cases"].as_array().unwrap().iter().filter(left);
    let models = plain.into_iter().chain(cases.map(|case| case["config"].clone()));
    let class = |config: &Value| config["architectures"][0].as_str().unwrap().to_owned();
    models.map(|config: Value| (config.to_string(), class(&config))).collect()
}

/// A trained checkpoint with its mask row, from each family and option: the same class, the same logits, the marks of a diffusion model.
#[test]
fn transformers_loads_our_checkpoints_and_gives_our_logits() {
    let vocab: serde_json::Map<String, Value> = (0..37).map(|i| (format!("t{i}"), i.into())).collect();
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}});
    let mut ids = tokens(20, 5);
    ids[7] = 37;
    let (mut dirs, mut ours) = (Vec::new(), Vec::new());
    for (json, _) in models() {
        let base = config_dir(&json);
        std::fs::write(base.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(base.path().join("tokenizer_config.json"), "{\"unk_token\": \"t0\"}").unwrap();
        let mut model = Model::initialise(base.path(), 7, Device::Cpu).unwrap();
        model.add_mask_token(7).unwrap();
        let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: false });
        let mut learner = Learner::new(model, options, AdamW::default()).unwrap();
        learner.micro_step(&noised(4, 16, 1), &Pattern::Full).unwrap();
        assert!(learner.apply(1e-2).unwrap().updated);
        let dir = TempDir::new().unwrap();
        learner.save(dir.path()).unwrap();
        ours.push(learner.model().logits(&ids, &Pattern::Causal).unwrap());
        let again = Model::load(dir.path(), Device::Cpu).unwrap();
        assert_eq!(again.logits(&ids, &Pattern::Causal).unwrap(), ours[ours.len() - 1], "{json}, read by difflow");
        dirs.push(dir);
    }
    let Some(all) = read_by_transformers(&dirs, &ids) else { return };
    for (((json, class), found), ours) in models().iter().zip(all).zip(ours) {
        assert_eq!(found["class"], **class);
        assert_eq!(found["mask_token_id"], 37);
        assert_eq!(found["difflow"], json!({"mask_token_id": 37, "shift": false, "objective": "diffusion"}));
        assert_eq!(found["mask_token"], json!(["<mask>", 37]));
        let gap = relative(&ours, &numbers(&found["logits"]));
        assert!(gap < 2e-5, "{json}: {gap}");
    }
}
