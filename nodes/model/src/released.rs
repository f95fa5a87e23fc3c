//! Checkpoints as the paper's authors released them: DiffuGPT, whose tensors have names of their own and whose config.json says nothing of a
//! mask token. (DiffuLLaMA is a plain LLaMA; its mask token is told with `--mask-token`.)

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::ModelError;
use crate::tensor_files::TensorFiles;

/// What the names of DiffuGPT's blocks begin with.
const MARK: &str = "denoise_model.";
/// The mask token where none is added: a rare word of GPT-2's vocabulary.
const MASK_OF_SMALL: u32 = 10_541;
const GPT2_VOCABULARY: u64 = 50_257;

/// Returns a recipe for the folder of a released checkpoint; `None` for any other, and where no weights can be read. Errors if its config.json
/// cannot be read.
pub(crate) fn recipe(dir: &Path) -> Result<Option<String>, ModelError> {
    // Who reads the weights says what is wrong with them.
    let Ok(files) = TensorFiles::open_model(dir) else { return Ok(None) };
    if !files.names().any(|name| name.starts_with(MARK)) {
        return Ok(None);
    }
    let path = dir.join("config.json");
    let text = std::fs::read(&path).map_err(ModelError::read(&path))?;
    let config: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|source| ModelError::Json { path: path.clone(), source })?;
    let vocabulary = config.get("vocab_size").and_then(Value::as_u64).unwrap_or(GPT2_VOCABULARY);
    // The medium model has a row more, for the mask token.
    let mask = if vocabulary == GPT2_VOCABULARY { u64::from(MASK_OF_SMALL) } else { vocabulary.saturating_sub(1) };
    let tied = !files.names().any(|name| name == "lm_head.weight");
    let mut values = json!({"tie_word_embeddings": tied});
    if !config.contains_key("mask_token_id") && !config.contains_key("difflow") {
        values["mask_token_id"] = mask.into();
    }
    let mut tensors = json!({
        "transformer.wte": "embed_tokens",
        "transformer.wpe": "denoise_model.wpe",
        "transformer.ln_f": "denoise_model.ln_f",
    });
    for part in ["ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"] {
        tensors[format!("transformer.h.{{layer}}.{part}")] = format!("denoise_model.h.{{layer}}.{part}").into();
    }
    let recipe = json!({
        "difflow_recipe": 1, "description": "DiffuGPT as released", "base": "GPT2LMHeadModel", "values": values, "tensors": tensors,
    });
    Ok(Some(recipe.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{Device, Model, Pattern};

    const CONFIG: &str = r#"{"architectures":["GPT2LMHeadModel"],"model_type":"gpt2","vocab_size":37,"n_embd":16,"n_layer":2,"n_head":2,
        "n_positions":32,"initializer_range":0.3}"#;

    /// The same weights under the names of the release: the same logits, and a diffusion model with shift whose mask token is the last row.
    #[test]
    fn a_released_diffugpt_is_the_gpt2_that_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, released) = (dir.path().join("plain"), dir.path().join("released"));
        for folder in [&plain, &released] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("config.json"), CONFIG).unwrap();
        }
        let model = Model::initialise(&plain, 7, Device::Cpu).unwrap();
        model.save(&plain).unwrap();
        let tensors = tch::Tensor::read_safetensors(plain.join("model.safetensors")).unwrap();
        let mut renamed: HashMap<String, tch::Tensor> = HashMap::new();
        for (name, tensor) in tensors {
            let name = name.replace("transformer.wte", "embed_tokens").replace("transformer.", "denoise_model.");
            if name == "embed_tokens.weight" {
                renamed.insert("lm_head.weight".to_owned(), tensor.copy());
            }
            renamed.insert(name, tensor);
        }
        let buffer = tch::Tensor::ones([1, 1, 32, 32], (tch::Kind::Float, tch::Device::Cpu));
        renamed.insert("denoise_model.h.0.attn.bias".to_owned(), buffer);
        let list: Vec<(&str, &tch::Tensor)> = renamed.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        tch::Tensor::write_safetensors(&list, released.join("model.safetensors")).unwrap();
        let found = Model::load(&released, Device::Cpu).unwrap();
        let adapted = found.config().adapted.clone().unwrap();
        assert_eq!((adapted.mask_token_id, adapted.shift), (36, true));
        let tokens = [3, 9, 27, 5, 36, 1];
        let gap = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let logits = |model: &Model| model.logits(&tokens, &Pattern::Full).unwrap();
        assert!(gap(logits(&found), logits(&model)) < 1e-5);
        // What is saved of it is read again.
        let again = dir.path().join("again");
        std::fs::create_dir(&again).unwrap();
        found.save(&again).unwrap();
        assert!(gap(logits(&Model::load(&again, Device::Cpu).unwrap()), logits(&model)) < 1e-5);
        assert!(recipe(&plain).unwrap().is_none());
    }
}
