//! Adapters read and written by `peft`. `DIFFLOW_PYTHON` names a Python that has it; without one this says what it skips.

use std::path::Path;
use std::process::Command;

use difflow_model::{AdamW, AdapterConfig, Device, Learner, Model, Objective, ObjectiveOptions, Pattern, Targets};
use difflow_tests::skip;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{GPT2, LLAMA, QWEN3, distance, model, noised, tokens};

/// What peft_check.py says of `mode`; `None` without a Python that has peft.
fn by_peft(mode: &str, base: &Path, adapter: &Path, ids: &[u32]) -> Option<Vec<f32>> {
    let told = "adapters read and written by peft";
    let Some(python) = std::env::var_os("DIFFLOW_PYTHON") else {
        skip("transformers", told, "DIFFLOW_PYTHON names no Python that has it");
        return None;
    };
    if !Command::new(&python).args(["-c", "import peft"]).output().unwrap().status.success() {
        skip("transformers", told, "the Python of DIFFLOW_PYTHON has no peft");
        return None;
    }
    let list = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/peft_check.py");
    let output = Command::new(python).arg(script).arg(mode).arg(base).arg(adapter).arg(list).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    Some(found["logits"].as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap() as f32).collect())
}

/// A base model in a folder.
fn base(json: &str) -> (TempDir, Model) {
    let (dir, model) = (TempDir::new().unwrap(), model(json, false));
    model.save(dir.path()).unwrap();
    (dir, model)
}

#[test]
fn peft_reads_our_adapters_and_gives_our_logits() {
    for (json, targets, stabilised, whole) in [
        (LLAMA, "all-linear", false, ""),
        (LLAMA, "q_proj,v_proj", true, "embed_tokens,lm_head"),
        (QWEN3, "k_proj,o_proj,down_proj", false, "embed_tokens"),
        (GPT2, "c_attn,c_fc", false, "wte,lm_head"),
    ] {
        let (folder, mut own) = base(json);
        let config = AdapterConfig {
            use_rslora: stabilised,
            fan_in_fan_out: json == GPT2,
            modules_to_save: (!whole.is_empty()).then(|| whole.split(',').map(str::to_owned).collect()),
            ..AdapterConfig::new(folder.path(), 3, 5.0, Targets::parse(targets))
        };
        own.add_adapter(&config, 1).unwrap();
        let mut learner = Learner::new(own, ObjectiveOptions::recommended(Objective::Ar), AdamW::default()).unwrap();
        for _ in 0..2 {
            learner.micro_step(&noised(4, 16, 1), &Pattern::Causal).unwrap();
            learner.apply(1e-2).unwrap();
        }
        let adapter = TempDir::new().unwrap();
        learner.save(adapter.path()).unwrap();
        let ids = tokens(20, 5);
        let Some(theirs) = by_peft("read", folder.path(), adapter.path(), &ids) else { return };
        let ours = learner.model().logits(&ids, &Pattern::Causal).unwrap();
        assert!(distance(&ours, &theirs) < 1e-5 * largest(&theirs), "{targets}: {}", distance(&ours, &theirs));
        assert!(distance(&ours, &model(json, false).logits(&ids, &Pattern::Causal).unwrap()) > 1e-2);
        // The folder alone says what the base model is.
        let again = Model::load(adapter.path(), Device::Cpu).unwrap();
        assert_eq!(again.logits(&ids, &Pattern::Causal).unwrap(), ours);
    }
}

#[test]
fn we_read_pefts_adapters_and_give_its_logits() {
    for json in [LLAMA, GPT2] {
        let (folder, mut own) = base(json);
        let (adapter, ids) = (TempDir::new().unwrap(), tokens(20, 5));
        let Some(theirs) = by_peft("write", folder.path(), adapter.path(), &ids) else { return };
        own.load_adapter(adapter.path(), folder.path()).unwrap();
        let ours = own.logits(&ids, &Pattern::Causal).unwrap();
        assert!(distance(&ours, &theirs) < 1e-5 * largest(&theirs), "{}", distance(&ours, &theirs));
        own.merge_adapter().unwrap();
        let merged = own.logits(&ids, &Pattern::Causal).unwrap();
        assert!(distance(&merged, &theirs) < 1e-5 * largest(&theirs), "{}", distance(&merged, &theirs));
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(1.0, |largest, value| largest.max(value.abs()))
}
