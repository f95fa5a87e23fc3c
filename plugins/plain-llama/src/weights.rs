//! Weights and sizes: read, created, written.

use std::path::Path;

use difflow_plugin_torch::tch::{self, Device, Kind, Tensor};
use difflow_plugin_torch::{Result, Source};
use serde_json::json;

use crate::PlainLlama;

impl PlainLlama {
    /// A folder of Hugging Face: config.json and model.safetensors.
    pub fn read(&mut self, dir: &Path, device: Device) -> Result<()> {
        let read = |name: &str| format!("cannot read {}", dir.join(name).display());
        let text = std::fs::read(dir.join("config.json")).map_err(|e| format!("{}: {e}", read("config.json")))?;
        self.config = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", read("config.json")))?;
        let tensors = Tensor::read_safetensors(dir.join("model.safetensors"))
            .map_err(|e| format!("{}: {e}", read("model.safetensors")))?;
        for (name, tensor) in tensors {
            self.weights.insert(name, tensor.f_to_kind(Kind::Float)?.f_to_device(device)?.f_contiguous()?);
        }
        Ok(())
    }

    /// A small model with random weights.
    pub fn random(&mut self, source: &Source) -> Result<()> {
        let (vocab, hidden, heads) = (self.options.vocab_size, self.options.hidden_size, self.options.heads);
        let config = json!({
            "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_attention_heads": heads,
            "num_hidden_layers": self.options.layers,
        });
        self.config = config.as_object().cloned().unwrap_or_default();
        let (vocab, d, inner) = (vocab as i64, hidden as i64, 2 * hidden as i64);
        let mut shapes = vec![("model.embed_tokens".to_owned(), vec![vocab, d]), ("model.norm".into(), vec![d])];
        for layer in 0..self.options.layers {
            for (part, shape) in [
                ("input_layernorm", vec![d]),
                ("self_attn.q_proj", vec![d, d]),
                ("self_attn.k_proj", vec![d, d]),
                ("self_attn.v_proj", vec![d, d]),
                ("self_attn.o_proj", vec![d, d]),
                ("post_attention_layernorm", vec![d]),
                ("mlp.gate_proj", vec![inner, d]),
                ("mlp.up_proj", vec![inner, d]),
                ("mlp.down_proj", vec![d, inner]),
            ] {
                shapes.push((format!("model.layers.{layer}.{part}"), shape));
            }
        }
        tch::manual_seed(source.seed as i64);
        for (name, shape) in shapes {
            let on = (Kind::Float, source.device);
            let tensor = match shape.len() {
                1 => Tensor::f_ones(&shape, on)?,
                _ => Tensor::f_randn(&shape, on)?.f_mul_scalar(0.3)?,
            };
            self.weights.insert(format!("{name}.weight"), tensor);
        }
        Ok(())
    }

    /// What `read` reads.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::write(dir.join("config.json"), serde_json::to_string_pretty(&self.config)?)?;
        let on_host = |tensor: &Tensor| tensor.f_detach()?.f_to_device(Device::Cpu);
        let tensors: std::result::Result<Vec<(&String, Tensor)>, tch::TchError> =
            self.weights.iter().map(|(name, tensor)| Ok((name, on_host(tensor)?))).collect();
        Ok(Tensor::write_safetensors(&tensors?, dir.join("model.safetensors"))?)
    }

    /// The tensor `NAME.weight`.
    pub fn weight(&self, name: &str) -> Result<&Tensor> {
        let tensor = self.weights.get(&format!("{name}.weight"));
        tensor.ok_or_else(|| format!("tensor `{name}.weight` is missing from model.safetensors").into())
    }

    /// A number of config.json.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.config.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| format!("config.json: `{key}` is {value}, no number").into()),
        }
    }

    fn size(&self, key: &str) -> Result<i64> {
        let found = self.config.get(key).and_then(|value| value.as_i64()).filter(|&size| size > 0);
        found.ok_or_else(|| format!("config.json: no positive number `{key}`").into())
    }

    pub fn layers(&self) -> Result<i64> {
        self.size("num_hidden_layers")
    }

    pub fn heads(&self) -> Result<i64> {
        self.size("num_attention_heads")
    }

    pub fn kv_heads(&self) -> Result<i64> {
        if self.config.contains_key("num_key_value_heads") { self.size("num_key_value_heads") } else { self.heads() }
    }

    pub fn head_size(&self) -> Result<i64> {
        if self.config.contains_key("head_dim") {
            return self.size("head_dim");
        }
        Ok(self.size("hidden_size")? / self.heads()?)
    }
}
