//! Model recipes: what is wrong with one is said, and a recipe travels with the checkpoint. What they compute is compared with
//! `transformers` in goldens.rs.

use difflow_model::{Device, Model, Pattern, RECIPE_FILE};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{LLAMA, model, read};

/// The LLaMA of the tests in a folder that calls everything otherwise, and the recipe that says so.
fn renamed() -> (TempDir, Value) {
    let dir = TempDir::new().unwrap();
    model(LLAMA, false).save(dir.path()).unwrap();
    let path = dir.path().join("config.json");
    let text = String::from_utf8(read(&path)).unwrap();
    let text = text.replace("LlamaForCausalLM", "OtherForCausalLM").replace("vocab_size", "tokens");
    std::fs::write(path, text.replace("hidden_size", "dim")).unwrap();
    let path = dir.path().join("model.safetensors");
    let bytes = read(&path);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let rename = |name: String| name.replace("model.layers.", "net.").replace("mlp.down_proj", "out");
    let views = tensors.tensors().into_iter().map(|(name, view)| (rename(name), view));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let parts = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "input_layernorm",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
    ];
    let mut map: serde_json::Map<String, Value> = parts
        .iter()
        .map(|part| (format!("model.layers.{{layer}}.{part}"), format!("net.{{layer}}.{part}").into()))
        .collect();
    map.insert("model.layers.{layer}.mlp.down_proj".into(), "net.{layer}.out".into());
    let recipe = json!({"difflow_recipe": 1, "base": "LlamaForCausalLM", "tensors": map,
        "keys": {"vocab_size": "tokens", "hidden_size": "dim"}});
    (dir, recipe)
}

#[test]
fn a_recipe_reads_other_names_and_travels_with_the_checkpoint() {
    let (dir, recipe) = renamed();
    let mut loaded = Model::load_with_recipe(dir.path(), &recipe.to_string(), Device::Cpu).unwrap();
    let logits = |model: &Model| model.logits(&[3, 4, 5], &Pattern::Full).unwrap();
    assert_eq!(logits(&loaded), logits(&model(LLAMA, false)));
    assert_eq!(loaded.add_mask_token(0).unwrap(), 37);
    let out = TempDir::new().unwrap();
    loaded.save(out.path()).unwrap();
    assert!(out.path().join(RECIPE_FILE).exists());
    let config: Value = serde_json::from_slice(&read(&out.path().join("config.json"))).unwrap();
    assert_eq!((&config["tokens"], &config["vocab_size"]), (&json!(38), &Value::Null));
    assert_eq!(config["architectures"], json!(["OtherForCausalLM"]));
    let again = Model::load(out.path(), Device::Cpu).unwrap();
    assert_eq!(logits(&again), logits(&loaded));
}

#[test]
fn wrong_recipes_say_what_is_wrong() {
    let (dir, good) = renamed();
    let error = |change: &dyn Fn(&mut Value)| {
        let mut recipe = good.clone();
        change(&mut recipe);
        Model::load_with_recipe(dir.path(), &recipe.to_string(), Device::Cpu).unwrap_err().to_string()
    };
    let cases: [(String, &[&str]); 6] = [
        (error(&|r| r["difflow_recipe"] = json!(2)), &[RECIPE_FILE, "version 2", "wanted 1"]),
        (error(&|r| r["tensor"] = json!({})), &[RECIPE_FILE, "unknown field `tensor`"]),
        (error(&|r| r["base"] = json!("Bert")), &["Bert", "LlamaForCausalLM"]),
        (error(&|r| r["values"] = json!({"mlp": "round"})), &["`mlp`", "round", "gated or plain"]),
        (
            error(&|r| r["tensors"]["model.layers.{layer}.mlp.dwn_proj"] = json!("x.{layer}")),
            &["no tensor", "dwn_proj"],
        ),
        (error(&|r| r["tensors"]["model.norm"] = json!("n.{layer}")), &["model.norm", "both have {layer}"]),
    ];
    for (error, parts) in cases {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}
