//! Every family and option against the `transformers` that is installed: logits under both patterns, and what becomes of them when a field
//! of the family's config class changes. `DIFFLOW_PYTHON` names a Python that has it; without one this says what it skips.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use difflow_model::{Arithmetic, Device, Model, ModelError, Pattern};
use difflow_tests::skip;
use serde_json::Value;
use tempfile::TempDir;

use crate::goldens::{numbers, relative, write_weights};
use crate::support::{OTHERS, config_dir, model, read};

/// What difflow makes of a model.
enum Outcome {
    /// The largest distance of its logits, relative to the largest of them.
    Distance(f64),
    /// The key that is refused.
    Refused(String),
    OtherTensors,
}

fn compare(case: &Value, ids: &[u32], kept: &[usize]) -> Outcome {
    let dir = config_dir(&case["config"].to_string());
    write_weights(dir.path(), &case["tensors"]);
    let mut model = match Model::load(dir.path(), Device::Cpu) {
        Ok(model) => model,
        Err(ModelError::Config { key, .. }) => return Outcome::Refused(key),
        // A field that asks for tensors which the file has not, or the other way round.
        Err(ModelError::MissingTensor { .. } | ModelError::ExtraTensors { .. } | ModelError::Shape { .. }) => {
            return Outcome::OtherTensors;
        }
        Err(other) => panic!("{}: {other}", case["config"]),
    };
    let gap = |model: &Model, key: &str, pattern: Pattern| {
        let (logits, width) = (model.logits(ids, &pattern).unwrap(), model.config().vocab_size);
        let rows: Vec<f32> = kept.iter().flat_map(|&at| logits[at * width..][..width].to_vec()).collect();
        relative(&rows, &numbers(&case[key]))
    };
    let mut worst = 0.0;
    for kernels in [true, false] {
        model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
        for (key, pattern) in [("causal", Pattern::Causal), ("full", Pattern::Full)] {
            let gap = gap(&model, key, pattern);
            worst = if gap <= worst { worst } else { gap };
        }
    }
    Outcome::Distance(worst)
}

/// A field that was read and not computed, or not read at all, gives other logits without a word.
#[test]
fn every_family_option_and_field_gives_the_logits_of_transformers_or_is_refused_by_name() {
    let Some(python) = std::env::var_os("DIFFLOW_PYTHON") else {
        return skip("transformers", "families and their fields", "DIFFLOW_PYTHON names no Python that has it");
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/live.py");
    let output = Command::new(python).arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let golden: Value = serde_json::from_str(include_str!("../goldens/transformers.json")).unwrap();
    let ids: Vec<u32> = numbers(&golden["ids"]).iter().map(|&n| n as u32).collect();
    let kept: Vec<usize> = numbers(&golden["kept"]).iter().map(|&n| n as usize).collect();
    let (mut cases, mut wrong, mut refused) = (0, Vec::new(), BTreeMap::<String, Vec<String>>::new());
    let mut equal = BTreeMap::<String, usize>::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let name = case["name"].as_str().unwrap().to_owned();
        let what = format!("{name}, {}", case["change"]);
        match (compare(&case, &ids, &kept), case["change"].as_object()) {
            (Outcome::Distance(gap), change) => {
                // Some fields make a model that turns rounding into more.
                if gap.is_nan() || gap > if change.is_none() { 2e-5 } else { 5e-5 } {
                    wrong.push(format!("{what}: {gap}"));
                }
                cases += usize::from(change.is_none());
                *equal.entry(name).or_default() += 1;
            }
            (Outcome::Refused(key), Some(change)) => {
                // What is wrong with an object is said of the key in it, what is wrong with a size of what divides it.
                let inside = change.values().any(|value| value.to_string().contains(&format!("\"{key}\"")));
                let sized = ["hidden_size", "num_attention_heads"].iter().any(|size| change.contains_key(*size));
                let divides = sized && ["num_attention_heads", "rotary_pct", "partial_rotary_factor"].contains(&&*key);
                if !change.contains_key(&key) && !inside && !divides {
                    wrong.push(format!("{what}: refused for {key}"));
                }
                refused.entry(name).or_default().push(case["change"].to_string());
            }
            (Outcome::OtherTensors, Some(change)) => {
                let shapes =
                    ["bias", "layer", "head", "size", "norm", "tie", "inner", "n_", "factor", "experts", "step"];
                if !change.keys().any(|key| shapes.iter().any(|part| key.contains(part))) {
                    wrong.push(format!("{what}: asks for other tensors"));
                }
                refused.entry(name).or_default().push(case["change"].to_string());
            }
            (Outcome::Refused(key), None) => wrong.push(format!("{what}: refused for {key}")),
            (Outcome::OtherTensors, None) => wrong.push(format!("{what}: other tensors")),
        }
    }
    println!("equal: {equal:?}\nrefused: {refused:#?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let total: usize = equal.values().sum();
    assert!(cases == 52 && total > 200, "{cases} models, {total} equal");
}

/// Pythia's files say `embed_out`; a program that writes its modules by their names of today says `lm_head`.
#[test]
fn the_head_of_gpt_neox_is_read_by_both_of_its_names() {
    let dir = TempDir::new().unwrap();
    let own = model(OTHERS[0], false);
    own.save(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    let bytes = read(&path);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(tensors.names().contains(&"embed_out.weight"));
    let renamed = tensors.tensors().into_iter().map(|(name, view)| (name.replace("embed_out", "lm_head"), view));
    std::fs::write(&path, safetensors::serialize(renamed, None).unwrap()).unwrap();
    let again = Model::load(dir.path(), Device::Cpu).unwrap();
    let logits = |model: &Model| model.logits(&[3, 9, 27], &Pattern::Full).unwrap();
    assert_eq!(logits(&again), logits(&own));
}
