//! Every key of config.json that changes the logits is computed as `transformers` does, or refused by name: tests/goldens/config_keys.py
//! changes one after the other.

use std::path::Path;

use difflow_model::{Device, Model, ModelConfig, ModelError, Pattern};
use serde_json::{Map, Value, json};

use crate::goldens::{numbers, write_weights};
use crate::support::config_dir;

/// What difflow makes of a configuration with the weights of `tensors`: the largest distance of its logits, or why it refuses.
fn compare(golden: &Value, config: &Value, tensors: &Value, wanted: &Value) -> Result<f64, ModelError> {
    let dir = config_dir(&config.to_string());
    write_weights(dir.path(), tensors);
    let model = Model::load(dir.path(), Device::Cpu)?;
    let ids: Vec<u32> = numbers(&golden["ids"]).iter().map(|&n| n as u32).collect();
    let logits = model.logits(&ids, &Pattern::Causal)?;
    let rows = numbers(&golden["kept"]).into_iter().flat_map(|at| logits[at as usize * 37..][..37].to_vec());
    let wanted = wanted.as_array().unwrap().iter().flat_map(numbers);
    Ok(rows.zip(wanted).map(|(a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max))
}

/// `use_sliding_window` of Qwen2, with `layer_types` and `max_window_layers`, gave other logits without a word, and so did GPT-2's
/// `num_attention_heads` beside `n_head`, a bidirectional base (`is_causal`) and LLaMA with a window that it has not.
#[test]
fn a_changed_key_gives_the_logits_of_transformers_or_is_refused_by_name() {
    let golden: Value = serde_json::from_str(include_str!("../goldens/config_keys.json")).unwrap();
    let (mut equal, mut refused) = (0, 0);
    for family in golden["families"].as_array().unwrap() {
        let base = &family["config"];
        let gap = compare(&golden, base, &family["tensors"], &family["causal"]).unwrap();
        assert!(gap < 1e-4, "{}: {gap}", family["name"]);
        for change in family["changes"].as_array().unwrap() {
            let (mut config, changed) = (base.clone(), change["change"].as_object().unwrap());
            config.as_object_mut().unwrap().extend(changed.clone());
            let or = |key: &str| change.get(key).unwrap_or(&family[key]);
            let what = format!("{}: {}", family["name"], change["change"]);
            match compare(&golden, &config, or("tensors"), or("causal")) {
                Ok(gap) => {
                    assert!(gap < 1e-4, "{what}: logits differ by {gap}");
                    equal += 1;
                }
                Err(ModelError::Config { key, .. }) => {
                    assert!(changed.contains_key(&key), "{what}: refused for {key}");
                    refused += 1;
                }
                // A key that asks for tensors the file has not, or the other way round.
                Err(ModelError::MissingTensor { .. } | ModelError::ExtraTensors { .. } | ModelError::Shape { .. }) => {
                    refused += 1;
                }
                Err(other) => panic!("{what}: {other}"),
            }
        }
    }
    assert!(equal > 150 && refused > 20, "{equal} equal, {refused} refused");
}

fn read(architecture: &str, extra: &Value) -> Result<ModelConfig, ModelError> {
    let mut config: Map<String, Value> = serde_json::from_value(json!({
        "architectures": [architecture], "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64
    }))
    .unwrap();
    config.extend(extra.as_object().unwrap().clone());
    ModelConfig::from_json(&Value::Object(config).to_string(), Path::new("m/config.json"))
}

#[test]
fn windows_are_those_of_the_family() {
    let window = |architecture: &str, extra: Value| read(architecture, &extra).unwrap().windows()[1];
    let (qwen2, mistral) = ("Qwen2ForCausalLM", "MistralForCausalLM");
    // Left out, Mistral's is 4096; null is none.
    assert_eq!(window(mistral, json!({})), Some(4096));
    assert_eq!(window(mistral, json!({"sliding_window": null})), None);
    assert_eq!(window(qwen2, json!({"sliding_window": 9})), None);
    assert_eq!(window(qwen2, json!({"sliding_window": 9, "use_sliding_window": true})), None);
    assert_eq!(
        window(qwen2, json!({"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 0})),
        Some(9)
    );
    assert_eq!(window("LlamaForCausalLM", json!({"sliding_window": 9, "use_sliding_window": true})), None);
}

#[test]
fn layers_have_windows_of_their_own_and_other_kinds_are_refused() {
    let mixed = json!({"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 1});
    assert_eq!(read("Qwen2ForCausalLM", &mixed).unwrap().windows(), [None, Some(9)]);
    let without = json!({"sliding_window": null, "use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention"]});
    let error = read("Qwen3ForCausalLM", &without).unwrap_err().to_string();
    assert!(["sliding_window", "null", "a number of tokens"].iter().all(|part| error.contains(part)), "{error}");
    let odd = json!({"layer_types": ["chunked_attention", "full_attention"]});
    let error = read("LlamaForCausalLM", &odd).unwrap_err().to_string();
    assert!(
        ["layer_types", "chunked_attention", "2 of full_attention"].iter().all(|part| error.contains(part)),
        "{error}"
    );
}

/// Keys of families near the supported ones, which a recipe might leave in place.
#[test]
fn what_is_not_computed_is_refused_unless_it_says_nothing() {
    for (key, wrong, harmless) in [
        ("attn_logit_softcapping", json!(50.0), json!(null)),
        ("residual_multiplier", json!(0.22), json!(1.0)),
        ("num_local_experts", json!(8), json!(0)),
        ("quantization_config", json!({"bits": 4}), json!(null)),
        ("partial_rotary_factor", json!(0.5), json!(1.0)),
    ] {
        let error = read("LlamaForCausalLM", &json!({key: wrong})).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(&wrong.to_string()), "{error}");
        assert!(read("LlamaForCausalLM", &json!({key: harmless})).is_ok(), "{key}");
    }
}
