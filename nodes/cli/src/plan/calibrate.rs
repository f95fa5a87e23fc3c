//! How fast this machine trains: a few real steps of a small relative of the model.

use std::time::Instant;

use difflow_model::{
    AdamW, Device, Learner, MicroBatch, Model, ModelConfig, Objective, ObjectiveOptions, Pattern, Precision,
};
use difflow_trainer::config::PrecisionKind;
use eyre::{Context, Result};
use serde_json::{Value, json};

use crate::plan::cost::{Work, forward_products};
use crate::plan::shape::Shape;

/// Layers, width and vocabulary of the relative at most: a second or so for all steps on two cores.
const LAYERS: u64 = 4;
const WIDTH: u64 = 512;
const VOCABULARY: u64 = 4096;
/// Tokens of a micro-batch at most.
const TOKENS: usize = 2048;
/// Steps that are timed, after two that warm up.
const STEPS: usize = 3;

/// Floating-point operations of training per second, on the trainer's device, threads and precision.
///
/// # Errors
/// The device is not there, or the relative cannot be made.
pub fn flops_per_second(work: &Work, shape: &Shape) -> Result<f64> {
    let folder = std::env::temp_dir().join(format!("difflow-plan-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let result = measure(work, shape, &folder);
    _ = std::fs::remove_dir_all(&folder);
    result.context("cannot measure this machine; use --no-calibration or --flops-per-second")
}

fn measure(work: &Work, shape: &Shape, folder: &std::path::Path) -> Result<f64> {
    let path = folder.join("config.json");
    std::fs::write(&path, relative(&shape.text)?).with_context(|| format!("cannot write {}", path.display()))?;
    difflow_model::set_num_threads(work.trainer.threads);
    let mut model = Model::initialise(folder, 0, Device::open(&work.trainer.device)?)?;
    if work.trainer.precision == PrecisionKind::Bf16 {
        model.set_precision(Precision::Bf16);
    }
    model.add_mask_token(0)?;
    let config = model.config().clone();
    let length = work.tokenizer.sequence_length.min(config.max_positions).min(TOKENS);
    let rows = (TOKENS / length).clamp(1, work.tokenizer.micro_batch.max(1));
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let mut learner = Learner::new(model, options, AdamW::default())?;
    let (batch, masked) = batch(rows, length, config.vocab_size as u32 - 1);
    let mut seconds = 0.0;
    for step in 0..STEPS + 2 {
        let begin = Instant::now();
        learner.micro_step(&batch, &Pattern::Full)?;
        // Reads the gradient's norm, so on a GPU the step is over when it returns.
        learner.apply(1e-4)?;
        if step >= 2 {
            seconds += begin.elapsed().as_secs_f64();
        }
    }
    Ok(operations(&config, length, rows * length, masked) * STEPS as f64 / seconds)
}

fn operations(config: &ModelConfig, length: usize, tokens: usize, masked: usize) -> f64 {
    let (blocks, head) = forward_products(config, length as u64);
    6.0 * (blocks * tokens as f64 + head * masked as f64)
}

/// Random tokens, every other one masked.
fn batch(rows: usize, length: usize, vocabulary: u32) -> (MicroBatch, usize) {
    let tokens = (0..(rows * length) as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocabulary).collect();
    let mut batch = MicroBatch::clean(rows, length, tokens);
    batch.weights.fill(2.0);
    for i in (0..batch.masked.len()).step_by(2) {
        batch.masked[i] = batch.maskable[i];
    }
    let masked = batch.masked.iter().filter(|masked| **masked).count();
    (batch, masked)
}

/// The same architecture, no larger than what a measurement can wait for.
fn relative(text: &str) -> Result<String> {
    let mut config: Value = serde_json::from_str(text)?;
    let number = |config: &Value, names: [&str; 2]| {
        names.iter().find_map(|name| Some((config.get(*name)?.as_u64()?, (*name).to_owned())))
    };
    let set = |config: &mut Value, name: &str, value: u64| config[name] = json!(value);
    if let Some((layers, name)) = number(&config, ["n_layer", "num_hidden_layers"]) {
        set(&mut config, &name, layers.min(LAYERS));
        if let Some(kinds) = config.get_mut("layer_types").and_then(Value::as_array_mut) {
            kinds.truncate(LAYERS as usize);
        }
    }
    // As many experts as a token has: the products are the same.
    if let Some((chosen, _)) = number(&config, ["num_experts_per_tok", "num_experts_per_tok"]) {
        for name in ["num_experts", "num_local_experts"] {
            set(&mut config, name, chosen);
        }
    }
    // Scalings have lists of the size of a head, and cost nothing.
    remove(&mut config, "rope_scaling");
    remove(&mut config, "rope_parameters");
    if let Some((vocabulary, name)) = number(&config, ["vocab_size", "vocab_size"]) {
        set(&mut config, &name, vocabulary.min(VOCABULARY));
    }
    for token in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        remove(&mut config, token);
    }
    if let Some((width, name)) = number(&config, ["n_embd", "hidden_size"]).filter(|(width, _)| *width > WIDTH) {
        let heads = number(&config, ["n_head", "num_attention_heads"]);
        let inner = number(&config, ["n_inner", "intermediate_size"]);
        set(&mut config, &name, WIDTH);
        // Heads of 64, as many as fit.
        if let Some((_, name)) = heads {
            set(&mut config, &name, WIDTH / 64);
        }
        if config.get("num_key_value_heads").is_some() {
            set(&mut config, "num_key_value_heads", WIDTH / 64);
        }
        remove(&mut config, "head_dim");
        let own = number(&config, ["moe_intermediate_size", "moe_intermediate_size"]);
        for (inner, name) in inner.into_iter().chain(own) {
            set(&mut config, &name, (inner * WIDTH / width).max(1));
        }
    }
    Ok(config.to_string())
}

fn remove(config: &mut Value, key: &str) {
    if let Some(all) = config.as_object_mut() {
        all.remove(key);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_relative_is_small_and_a_model() {
        for name in ["gpt2", "gpt2-medium", "Llama-2-7b-hf"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../data/experiments/shapes/{name}.json"));
            let text = relative(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let config = ModelConfig::from_json(&text, &path).unwrap();
            assert!(
                config.parameter_count() < 20_000_000 && config.hidden_size == WIDTH as usize,
                "{name}: {config:?}"
            );
        }
        let experts = r#"{"architectures":["Qwen3MoeForCausalLM"],"vocab_size":151936,"hidden_size":2048,"intermediate_size":6144,
            "num_hidden_layers":48,"num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"num_experts":128,
            "moe_intermediate_size":768,"num_experts_per_tok":8}"#;
        let config = ModelConfig::from_json(&relative(experts).unwrap(), Path::new("config.json")).unwrap();
        assert!(config.parameter_count() < 20_000_000 && config.idle_count() == 0, "{config:?}");
        assert_eq!(config.experts.unwrap().chosen, 8);
    }
}
