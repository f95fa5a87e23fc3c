//! Loading and saving: the same bytes back, and errors that name tensor, file, found and wanted.

use std::path::Path;

use difflow_model::{
    AdamW, Blocks, Context, Device, Learner, Model, ModelConfig, Objective, ObjectiveKind, ObjectiveOptions, Pattern,
};
use tempfile::TempDir;

use crate::support::{GPT2, LLAMA, QWEN3, model, noised, read};

#[test]
fn load_then_save_gives_the_same_bytes() {
    for json in [LLAMA, GPT2, QWEN3] {
        for mask in [false, true] {
            let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            model(json, mask).save(first.path()).unwrap();
            let saved = Model::load(first.path(), Device::Cpu).unwrap().save(second.path()).unwrap();
            assert_eq!(saved.len(), if mask { 3 } else { 2 });
            for file in saved {
                assert_eq!(
                    read(&first.path().join(&file.name)),
                    read(&second.path().join(&file.name)),
                    "{}",
                    file.name
                );
            }
        }
    }
}

#[test]
fn a_tied_head_is_stored_once_and_an_untied_one_grows_too() {
    let names = |json: &str| {
        let dir = TempDir::new().unwrap();
        model(json, true).save(dir.path()).unwrap();
        let bytes = read(&dir.path().join("model.safetensors"));
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let shape = |name: &str| tensors.tensor(name).ok().map(|t| t.shape().to_vec());
        (shape("model.embed_tokens.weight"), shape("lm_head.weight"))
    };
    assert_eq!(names(LLAMA), (Some(vec![38, 16]), None));
    assert_eq!(names(QWEN3), (Some(vec![38, 16]), Some(vec![38, 16])));
}

#[test]
fn the_mask_token_is_added_once_and_named_in_the_tokenizer() {
    let dir = crate::support::config_dir(LLAMA);
    let vocab: serde_json::Map<String, serde_json::Value> = (0..30).map(|i| (format!("t{i}"), i.into())).collect();
    let tokenizer = serde_json::json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut model = Model::initialise(dir.path(), 7, Device::Cpu).unwrap();
    assert_eq!(model.add_mask_token(1).unwrap(), 37);
    let out = TempDir::new().unwrap();
    model.save(out.path()).unwrap();
    let mut again = Model::load(out.path(), Device::Cpu).unwrap();
    assert_eq!(again.add_mask_token(2).unwrap(), 37, "a second call must not add a second row");
    assert_eq!(again.config().vocab_size, 38);
    let saved: serde_json::Value = serde_json::from_slice(&read(&out.path().join("tokenizer.json"))).unwrap();
    let added = saved["added_tokens"].as_array().unwrap();
    // The embedding had seven rows more than the tokenizer: ids without a gap, the mask last.
    assert_eq!(added.len(), 8);
    assert_eq!((added[7]["id"].as_u64(), added[7]["content"].as_str()), (Some(37), Some("<mask>")));
    let config: serde_json::Value = serde_json::from_slice(&read(&out.path().join("config.json"))).unwrap();
    assert_eq!((config["vocab_size"].as_u64(), config["difflow"]["mask_token_id"].as_u64()), (Some(38), Some(37)));
}

fn error_after(change: impl FnOnce(&std::path::Path)) -> String {
    let dir = TempDir::new().unwrap();
    model(LLAMA, false).save(dir.path()).unwrap();
    change(dir.path());
    Model::load(dir.path(), Device::Cpu).unwrap_err().to_string()
}

#[test]
fn damaged_directories_say_what_is_wrong_where() {
    let replace = |from: &'static str, to: &'static str| {
        move |dir: &std::path::Path| {
            let path = dir.join("config.json");
            let text = String::from_utf8(read(&path)).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(path, text.replace(from, to)).unwrap();
        }
    };
    let truncate = |keep: u64| {
        move |dir: &std::path::Path| {
            let file = std::fs::OpenOptions::new().write(true).open(dir.join("model.safetensors")).unwrap();
            file.set_len(keep).unwrap();
        }
    };
    let remove = |name: &'static str| move |dir: &std::path::Path| std::fs::remove_file(dir.join(name)).unwrap();
    let cases: [(String, &[&str]); 8] = [
        (error_after(replace("\"vocab_size\": 37", "\"vocab_size\": 40")), &["embed_tokens", "[37, 16]", "[40, 16]"]),
        (error_after(replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")), &["model.layers.2", "missing"]),
        (error_after(replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1")), &["no place", "model.layers.1"]),
        (
            error_after(replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false")),
            &["lm_head.weight", "missing"],
        ),
        (error_after(truncate(9000)), &["model.safetensors", "ends inside tensor `model.", "found 9000 bytes"]),
        (error_after(truncate(100)), &["model.safetensors", "header", "100"]),
        (error_after(remove("model.safetensors")), &["no model.safetensors"]),
        (error_after(remove("config.json")), &["config.json", "cannot read"]),
    ];
    for (error, parts) in cases {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn many_files_and_any_float_dtype_load_like_one_fp32_file() {
    use safetensors::{Dtype, tensor::TensorView};
    let (whole, parts) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let saved = model(LLAMA, false);
    saved.save(whole.path()).unwrap();
    let bytes = read(&whole.path().join("model.safetensors"));
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    type Stored = (String, Vec<usize>, Vec<u8>);
    let mut files: [Vec<Stored>; 2] = [Vec::new(), Vec::new()];
    for (i, (name, view)) in tensors.tensors().into_iter().enumerate() {
        let wide: Vec<u8> = view
            .data()
            .chunks(4)
            .flat_map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())).to_le_bytes())
            .collect();
        files[i % 2].push((name, view.shape().to_vec(), wide));
    }
    let mut map = serde_json::Map::new();
    for (i, file) in files.iter().enumerate() {
        let name = format!("part-{i}.safetensors");
        let views =
            file.iter().map(|(n, shape, data)| (n.as_str(), TensorView::new(Dtype::F64, shape.clone(), data).unwrap()));
        std::fs::write(parts.path().join(&name), safetensors::serialize(views, None).unwrap()).unwrap();
        file.iter().for_each(|(tensor, ..)| drop(map.insert(tensor.clone(), name.clone().into())));
    }
    let index = serde_json::json!({"weight_map": map});
    std::fs::write(parts.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::copy(whole.path().join("config.json"), parts.path().join("config.json")).unwrap();
    let loaded = Model::load(parts.path(), Device::Cpu).unwrap();
    let ids = [1, 5, 9];
    assert_eq!(loaded.logits(&ids, &Pattern::Causal).unwrap(), saved.logits(&ids, &Pattern::Causal).unwrap());
}

/// Guards resume: weights, moments and step after a stop must be those of a run that never stopped.
#[test]
fn training_resumed_from_files_is_byte_identical() {
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let step = |learner: &mut Learner, n: u64| {
        let pattern = Pattern::Annealed { ratio: 0.3, seed: 1, draw: n };
        learner.micro_step(&noised(2, 12, n), &pattern).unwrap();
        assert!(learner.apply(1e-2).unwrap().updated);
    };
    for json in [LLAMA, GPT2] {
        let (middle, through, resumed) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        let adamw = AdamW { weight_decay: 0.1, ..AdamW::default() };
        let mut learner = Learner::new(model(json, true), options, adamw).unwrap();
        (0..3).for_each(|n| step(&mut learner, n));
        learner.save(middle.path()).unwrap();
        (3..6).for_each(|n| step(&mut learner, n));
        learner.save(through.path()).unwrap();

        let mut learner = Learner::new(Model::load(middle.path(), Device::Cpu).unwrap(), options, adamw).unwrap();
        learner.load_optimizer(middle.path()).unwrap();
        assert_eq!(learner.updates(), 3);
        (3..6).for_each(|n| step(&mut learner, n));
        for file in learner.save(resumed.path()).unwrap() {
            assert_eq!(read(&through.path().join(&file.name)), read(&resumed.path().join(&file.name)), "{}", file.name);
        }
    }
}

#[test]
fn an_optimizer_state_of_another_model_is_refused() {
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let dir = TempDir::new().unwrap();
    Learner::new(model(GPT2, true), options, AdamW::default()).unwrap().save(dir.path()).unwrap();
    let mut other = Learner::new(model(LLAMA, true), options, AdamW::default()).unwrap();
    let error = other.load_optimizer(dir.path()).unwrap_err().to_string();
    assert!(error.contains("optimizer.safetensors") && error.contains("missing"), "{error}");
}

/// Files of the bare classes and of older versions: no prefix, causal masks stored as buffers, a tied head stored twice.
#[test]
fn older_layouts_of_the_same_model_load() {
    use safetensors::{Dtype, tensor::TensorView};
    let dir = TempDir::new().unwrap();
    let saved = model(GPT2, false);
    saved.save(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    let bytes = read(&path);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ones = vec![1u8; 64 * 64];
    let rewrite = |head: &[u8]| {
        let bare = tensors.tensors().into_iter().map(|(name, view)| (name.replace("transformer.", ""), view));
        let mut all: Vec<(String, TensorView)> = bare.collect();
        let view = |shape: Vec<usize>, dtype, data| TensorView::new(dtype, shape, data).unwrap();
        all.push(("h.0.attn.bias".to_owned(), view(vec![1, 1, 64, 64], Dtype::U8, &ones)));
        let head = view(vec![37, 16], Dtype::F32, head);
        all.push(("lm_head.weight".to_owned(), head));
        std::fs::write(&path, safetensors::serialize(all.iter().map(|(n, v)| (n, v.clone())), None).unwrap()).unwrap();
        Model::load(dir.path(), Device::Cpu)
    };
    let embedding = tensors.tensor("transformer.wte.weight").unwrap().data().to_vec();
    let loaded = rewrite(&embedding).unwrap();
    assert_eq!(loaded.logits(&[3, 4], &Pattern::Full).unwrap(), saved.logits(&[3, 4], &Pattern::Full).unwrap());
    let mut other = embedding;
    other[0] ^= 1;
    let error = rewrite(&other).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight") && error.contains("tie_word_embeddings"), "{error}");
}

/// Checkpoints of before the objective was a type are read, and what is written is what other programs know.
#[test]
fn the_objective_in_config_json_is_read_and_written_as_it_always_was() {
    let with = |marks: &str| {
        let json = LLAMA.replace("\"bos", &format!("\"difflow\":{{\"mask_token_id\":3{marks}}},\"bos"));
        ModelConfig::from_json(&json, Path::new("config.json"))
    };
    for (word, kind) in [("ar", ObjectiveKind::Ar), ("diffusion", ObjectiveKind::Diffusion)] {
        let config = with(&format!(",\"objective\":\"{word}\"")).unwrap();
        assert_eq!(config.adapted.as_ref().unwrap().objective, kind);
        assert!(config.to_json("float32").contains(&format!("\"objective\": \"{word}\"")));
    }
    assert_eq!(with("").unwrap().adapted.unwrap().objective, ObjectiveKind::Diffusion);
    let block = r#","shift":false,"objective":"block","block":{"size":4,"context":"causal","ar_weight":0.6}"#;
    let config = with(block).unwrap();
    let blocks = Blocks { size: 4, context: Context::Causal, shift: false, ar_weight: 0.6 };
    assert_eq!(config.adapted.as_ref().unwrap().blocks, Some(blocks));
    let again = ModelConfig::from_json(&config.to_json("float32"), Path::new("config.json")).unwrap();
    assert_eq!(again.adapted, config.adapted);
    for wrong in [r#""size":0,"context":"causal","ar_weight":0"#, r#""size":4,"context":"wide","ar_weight":0"#, ""] {
        let error = with(&format!(r#","objective":"block","block":{{{wrong}}}"#)).unwrap_err().to_string();
        assert!(error.contains("block") && error.contains("`size` (1 or more)"), "{error}");
    }
    let error = with(",\"objective\":\"gan\"").unwrap_err().to_string();
    assert!(
        error.contains("objective") && error.contains("gan") && error.contains("diffusion, ar or block"),
        "{error}"
    );
}

/// The object of difflow is all that changes in a file that `transformers` reads, too.
#[test]
fn how_a_model_wants_to_be_decoded_is_saved_beside_what_its_base_says() {
    let mut model = model(LLAMA, true);
    let dir = TempDir::new().unwrap();
    let saved = |model: &Model| {
        model.save(dir.path()).unwrap();
        serde_json::from_slice::<serde_json::Value>(&read(&dir.path().join("generation_config.json"))).unwrap()
    };
    let options = |decoder: &str| serde_json::json!({ "DECODER": decoder }).as_object().unwrap().clone();
    model.set_generation(options("threshold")).unwrap();
    assert_eq!(saved(&model), serde_json::json!({"difflow": {"DECODER": "threshold"}}));
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": 2, "difflow": {"SEED": 1}}"#)
        .unwrap();
    let mut model = Model::load(dir.path(), Device::Cpu).unwrap();
    model.set_generation(options("ar")).unwrap();
    assert_eq!(saved(&model), serde_json::json!({"eos_token_id": 2, "difflow": {"DECODER": "ar"}}));
}
