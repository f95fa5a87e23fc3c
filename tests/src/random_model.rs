//! A base model that is shaped like GPT-2 and knows nothing, with a tokenizer of somebody else's.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::Random;
use crate::safetensors::{Floats, write_safetensors};

/// Of the model.
const WIDTH: usize = 32;

/// Makes `folder`: a GPT-2 of two layers with random weights, and the tokenizer.json at `tokenizer`, whose last token begins and ends a
/// document.
pub fn write_gpt2(folder: &Path, tokenizer: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    fs::copy(tokenizer, folder.join("tokenizer.json")).expect("a tokenizer");
    let (vocabulary, positions) = (50_257, 512);
    let config = json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": vocabulary, "n_positions": positions,
        "n_ctx": positions, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new", "bos_token_id": vocabulary - 1, "eos_token_id": vocabulary - 1,
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("the folder takes a file");
    let mut tensors =
        vec![("wte.weight".to_owned(), vec![vocabulary, WIDTH]), ("wpe.weight".to_owned(), vec![positions, WIDTH])];
    let norm = |tensors: &mut Vec<(String, Vec<usize>)>, name: &str| {
        tensors.extend(["weight", "bias"].map(|part| (format!("{name}.{part}"), vec![WIDTH])));
    };
    for layer in 0..2 {
        norm(&mut tensors, &format!("h.{layer}.ln_1"));
        norm(&mut tensors, &format!("h.{layer}.ln_2"));
        for (name, input, output) in
            [("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)]
        {
            tensors.push((format!("h.{layer}.{name}.weight"), vec![input * WIDTH, output * WIDTH]));
            tensors.push((format!("h.{layer}.{name}.bias"), vec![output * WIDTH]));
        }
    }
    norm(&mut tensors, "ln_f");
    let mut random = Random::new(4);
    let weights = tensors.into_iter().map(|(name, shape)| {
        let mut value = || match (name.contains("ln_"), name.ends_with("bias")) {
            (_, true) => 0.0,
            (true, false) => 1.0,
            (false, false) => 0.1 * (random.unit() as f32 - 0.5),
        };
        let values = (0..shape.iter().product()).map(|_| value()).collect();
        Floats { name, shape, values }
    });
    write_safetensors(folder, weights);
}
