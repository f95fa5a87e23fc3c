//! Typed access to the keys of a config.json, with errors that give file, key, found and expected value.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::{Activation, Adapted, TorchMark};
use crate::error::ModelError;
use crate::objective::{Blocks, ObjectiveKind};
use crate::rope::{Rope, RopeScaling};

const ARCHITECTURES: [(&str, &str); 6] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gpt2", "GPT2LMHeadModel"),
    ("gpt2", "GPT2Model"),
];

/// `transformers`' short name of a class.
pub(crate) fn model_type(architecture: &str) -> &'static str {
    ARCHITECTURES.iter().find(|(_, class)| *class == architecture).map_or("", |(model_type, _)| model_type)
}

/// Which layers of a family have a sliding window.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Windows {
    /// None, whatever `sliding_window` says.
    None,
    /// Every one; without the key the `usual`, null for none.
    EveryLayer { usual: Option<usize> },
    /// With `use_sliding_window` those that `layer_types` names, without this key those from `max_window_layers` on.
    Chosen,
}

pub(crate) struct Reader<'a> {
    pub map: &'a Map<String, Value>,
    pub file: &'a Path,
}

impl Reader<'_> {
    fn wrong(&self, key: &str, wanted: &str) -> ModelError {
        let found = self.map.get(key).map_or("nothing".to_owned(), Value::to_string);
        ModelError::Config { file: self.file.to_owned(), key: key.to_owned(), found, wanted: wanted.to_owned() }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub fn require(&self, holds: bool, key: &str, wanted: &str) -> Result<(), ModelError> {
        if holds { Ok(()) } else { Err(self.wrong(key, wanted)) }
    }

    pub fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.size_opt(key)?.ok_or_else(|| self.wrong(key, "a positive integer"))
    }

    pub fn size_opt(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            // A billion of anything is a damaged file, and would overflow the shapes computed from it.
            Some(value) => match value.as_u64() {
                Some(n) if (1..1_000_000_000).contains(&n) => Ok(Some(n as usize)),
                _ => Err(self.wrong(key, "a positive integer below a billion")),
            },
        }
    }

    pub fn number_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().filter(|n| *n > 0.0).ok_or_else(|| self.wrong(key, "a number above 0")),
        }
    }

    /// A number in [0, 1).
    pub fn share_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        let found = self.get(key).map_or(Some(default), Value::as_f64);
        found.filter(|share| (0.0..1.0).contains(share)).ok_or_else(|| self.wrong(key, "0 or more, below 1"))
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// True when the key has the second of two words; without the key, false.
    pub fn choice(&self, key: &str, first: &str, second: &str) -> Result<bool, ModelError> {
        match self.get(key).map(Value::as_str) {
            None => Ok(false),
            Some(Some(word)) if word == first => Ok(false),
            Some(Some(word)) if word == second => Ok(true),
            _ => Err(self.wrong(key, &format!("{first} or {second}"))),
        }
    }

    pub fn token(&self, key: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.tokens(key)?.first().copied())
    }

    /// One id or a list of ids.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let wrong = || self.wrong(key, "a token id or a list of token ids");
        let one = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(wrong);
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(one).collect(),
            Some(value) => Ok(vec![one(value)?]),
        }
    }

    /// The class name, from `architectures` or `model_type`.
    pub fn architecture(&self) -> Result<String, ModelError> {
        let allowed = ARCHITECTURES.map(|(_, name)| name);
        let wanted = format!("one of {}", allowed.join(", "));
        if let Some(list) = self.get("architectures") {
            let name = list.get(0).and_then(Value::as_str).unwrap_or_default();
            // The bare GPT-2 class holds the same tensors; what is written back has an output head.
            let name = if name == "GPT2Model" { "GPT2LMHeadModel" } else { name };
            self.require(allowed.contains(&name), "architectures", &wanted)?;
            return Ok(name.to_owned());
        }
        let kind = self.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let known = ARCHITECTURES.iter().find(|(model_type, _)| *model_type == kind);
        known.map(|(_, name)| (*name).to_owned()).ok_or_else(|| self.wrong("architectures", &wanted))
    }

    pub fn activation(&self, key: &str, default: &str) -> Result<Activation, ModelError> {
        match self.get(key).map_or(Some(default), Value::as_str) {
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
            Some("gelu") => Ok(Activation::Gelu),
            Some("relu") => Ok(Activation::Relu),
            _ => Err(self.wrong(key, "silu, gelu, gelu_new, gelu_pytorch_tanh or relu")),
        }
    }

    /// The sliding window of every layer. Errors if only some layers have one.
    pub fn window(&self, windows: Windows, layers: usize) -> Result<Option<usize>, ModelError> {
        let named = match self.get("layer_types") {
            None => None,
            Some(value) => {
                let wanted = format!("{layers} of full_attention or sliding_attention");
                let sliding = |kind: &Value| match kind.as_str() {
                    Some("full_attention") => Some(false),
                    Some("sliding_attention") => Some(true),
                    _ => None,
                };
                let kinds = value.as_array().filter(|kinds| kinds.len() == layers);
                let kinds = kinds.and_then(|kinds| kinds.iter().map(sliding).collect::<Option<Vec<bool>>>());
                Some(kinds.ok_or_else(|| self.wrong("layer_types", &wanted))?)
            }
        };
        let (window, sliding) = match windows {
            Windows::None => (None, named),
            Windows::EveryLayer { usual } => {
                let used = self.flag("use_sliding_window")?.unwrap_or(true);
                let usual = if self.map.contains_key("sliding_window") { None } else { usual };
                (self.size_opt("sliding_window")?.or(usual).filter(|_| used), named)
            }
            Windows::Chosen => {
                let used = self.flag("use_sliding_window")?.unwrap_or(false);
                let usual = if self.map.contains_key("sliding_window") { None } else { Some(4096) };
                let window = self.size_opt("sliding_window")?.or(usual).filter(|_| used);
                let from = self.count_or("max_window_layers", 28)?;
                let by_number = (0..layers).map(|layer| window.is_some() && layer >= from).collect();
                (window, Some(named.unwrap_or(by_number)))
            }
        };
        let Some(sliding) = sliding else { return Ok(window) };
        let key = if self.get("layer_types").is_some() { "layer_types" } else { "max_window_layers" };
        if sliding.iter().all(|&one| !one) && (window.is_none() || matches!(windows, Windows::Chosen)) {
            return Ok(None);
        }
        let wanted = "the same for all layers, with a `sliding_window` if it is sliding attention (a window in some layers only \
                      is not computed)";
        self.require(window.is_some() && sliding.iter().all(|&one| one), key, wanted)?;
        Ok(window)
    }

    /// A count, which may be 0.
    fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        let found = self.get(key).map_or(Some(default as u64), Value::as_u64);
        found.map(|n| n as usize).ok_or_else(|| self.wrong(key, "a whole number from 0 on"))
    }

    /// `difflow.torch_model`: the plug-in that a checkpoint was trained with.
    pub fn torch_model(&self) -> Result<Option<TorchMark>, ModelError> {
        let Some(mark) = self.get("difflow").and_then(|marks| marks.get("torch_model")) else { return Ok(None) };
        let text = |key: &str| mark.get(key).and_then(Value::as_str).map(str::to_owned);
        let wrong = || self.wrong("difflow", "an object whose `torch_model` has the texts `id` and `config`");
        Ok(Some(TorchMark { id: text("id").ok_or_else(wrong)?, config: text("config").ok_or_else(wrong)? }))
    }

    /// The `difflow` object, or a bare `mask_token_id` as other diffusion models write it.
    pub fn adapted(&self, vocab_size: usize) -> Result<Option<Adapted>, ModelError> {
        let marks = match self.get("difflow") {
            None => None,
            Some(value) => Some(value.as_object().ok_or_else(|| self.wrong("difflow", "an object"))?),
        };
        let inner = marks.map(|map| Reader { map, file: self.file });
        let mask = match &inner {
            Some(r) => r.token("mask_token_id")?,
            None => self.token("mask_token_id")?,
        };
        let Some(mask_token_id) = mask else { return Ok(None) };
        self.require((mask_token_id as usize) < vocab_size, "mask_token_id", "an id below vocab_size")?;
        let shift = inner.as_ref().map_or(Ok(None), |r| r.flag("shift"))?.unwrap_or(true);
        let objective = match inner.as_ref().and_then(|r| Some((r, r.get("objective")?))) {
            None => ObjectiveKind::Diffusion,
            Some((r, found)) => {
                serde_json::from_value(found.clone()).map_err(|_| r.wrong("objective", "diffusion, ar or block"))?
            }
        };
        let blocks = match &inner {
            Some(r) if objective == ObjectiveKind::Block => Some(r.blocks(shift)?),
            _ => None,
        };
        Ok(Some(Adapted { mask_token_id, shift, objective, blocks }))
    }

    /// `block` of the `difflow` object.
    fn blocks(&self, shift: bool) -> Result<Blocks, ModelError> {
        let found = self.get("block").and_then(|found| serde_json::from_value::<Blocks>(found.clone()).ok());
        let blocks = found.filter(|blocks| blocks.size > 0 && blocks.ar_weight >= 0.0);
        let wanted = "an object with `size` (1 or more), `context` (block or causal) and `ar_weight` (0 or more)";
        Ok(Blocks { shift, ..blocks.ok_or_else(|| self.wrong("block", wanted))? })
    }

    /// `rope_theta` and `rope_scaling`, or the newer `rope_parameters` that holds both.
    pub fn rope(&self, max_positions: usize) -> Result<Rope, ModelError> {
        let object = |key: &str| match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_object().map(Some).ok_or_else(|| self.wrong(key, "an object")),
        };
        let empty = Map::new();
        let (key, map) = match (object("rope_parameters")?, object("rope_scaling")?) {
            (Some(map), _) => ("rope_parameters", map),
            (None, Some(map)) => ("rope_scaling", map),
            (None, None) => ("rope_scaling", &empty),
        };
        let r = Reader { map, file: self.file };
        let theta = r.number_or("rope_theta", self.number_or("rope_theta", 10000.0)?)?;
        let partial = self.number_or("partial_rotary_factor", r.number_or("partial_rotary_factor", 1.0)?)?;
        self.require(partial == 1.0, "partial_rotary_factor", "1")?;
        let kind = r.get("rope_type").or(r.get("type")).map_or(Some("default"), Value::as_str);
        let need = |key: &str| match r.get(key) {
            Some(_) => r.number_or(key, 1.0),
            None => Err(r.wrong(key, "a number above 0")),
        };
        let original = r.size_opt("original_max_position_embeddings")?;
        let scaling = match kind {
            Some("default") => None,
            Some("linear") => Some(RopeScaling::Linear { factor: need("factor")? }),
            Some("dynamic") => {
                Some(RopeScaling::Dynamic { factor: need("factor")?, original: original.unwrap_or(max_positions) })
            }
            Some("llama3") => Some(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original: original.ok_or_else(|| r.wrong("original_max_position_embeddings", "a positive integer"))?,
            }),
            Some("yarn") => Some(r.yarn(need("factor")?, original, max_positions)?),
            _ => {
                let wanted = "a rope_type of default, linear, dynamic, llama3 or yarn";
                return Err(self.wrong(key, wanted));
            }
        };
        Ok(Rope { theta, scaling })
    }

    fn yarn(&self, factor: f64, original: Option<usize>, max_positions: usize) -> Result<RopeScaling, ModelError> {
        let temperature = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        let attention_factor = match (self.get("mscale"), self.get("mscale_all_dim")) {
            _ if self.get("attention_factor").is_some() => self.number_or("attention_factor", 1.0)?,
            (Some(_), Some(_)) => {
                temperature(self.number_or("mscale", 1.0)?) / temperature(self.number_or("mscale_all_dim", 1.0)?)
            }
            _ => temperature(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: self.number_or("beta_fast", 32.0)?,
            beta_slow: self.number_or("beta_slow", 1.0)?,
            original: original.unwrap_or(max_positions),
            attention_factor,
            truncate: self.flag("truncate")?.unwrap_or(true),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use crate::config::{ModelConfig, Positions};
    use crate::rope::RopeScaling;

    fn read(extra: &str) -> Result<ModelConfig, String> {
        let text = format!(
            r#"{{"architectures":["LlamaForCausalLM"],"vocab_size":32,"hidden_size":8,"intermediate_size":16,
                "num_hidden_layers":2,"num_attention_heads":2,"max_position_embeddings":64{extra}}}"#
        );
        ModelConfig::from_json(&text, Path::new("m/config.json")).map_err(|e| e.to_string())
    }

    #[test]
    fn unknown_architecture_is_named_with_what_is_allowed() {
        let text = r#"{"architectures":["MambaForCausalLM"]}"#;
        let error = ModelConfig::from_json(text, Path::new("m/config.json")).unwrap_err().to_string();
        assert!(error.contains("m/config.json") && error.contains("Mamba") && error.contains("LlamaForCausalLM"));
    }

    #[test]
    fn scalings_are_read_in_both_spellings() {
        let scaling = |extra: &str| match read(extra).unwrap().positions {
            Positions::Rotary(rope) => rope.scaling,
            Positions::Learned => None,
        };
        assert_eq!(scaling(""), None);
        let linear = Some(RopeScaling::Linear { factor: 2.0 });
        assert_eq!(scaling(r#","rope_scaling":{"type":"linear","factor":2.0}"#), linear);
        assert_eq!(scaling(r#","rope_parameters":{"rope_type":"linear","factor":2.0,"rope_theta":500.0}"#), linear);
        let dynamic = Some(RopeScaling::Dynamic { factor: 2.0, original: 64 });
        assert_eq!(scaling(r#","rope_scaling":{"rope_type":"dynamic","factor":2.0}"#), dynamic);
    }

    #[test]
    fn wrong_values_name_key_found_and_wanted() {
        for (extra, parts) in [
            (r#","rope_scaling":{"type":"cubic"}"#, ["rope_scaling", "cubic", "yarn"]),
            (r#","num_key_value_heads":3"#, ["num_key_value_heads", "3", "divisor"]),
            (r#","hidden_act":"tanh""#, ["hidden_act", "tanh", "silu"]),
            (r#","difflow":{"mask_token_id":32}"#, ["mask_token_id", "nothing", "below vocab_size"]),
            (r#","rms_norm_eps":-1"#, ["rms_norm_eps", "-1", "above 0"]),
        ] {
            let error = read(extra).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn relatives_differ_by_flags() {
        let of = |architecture: &str| {
            let text = read("").unwrap().to_json("float32").replace("LlamaForCausalLM", architecture);
            ModelConfig::from_json(&text, Path::new("config.json")).unwrap()
        };
        assert!(!of("LlamaForCausalLM").qkv_bias);
        let qwen2 = of("Qwen2ForCausalLM");
        assert!(qwen2.qkv_bias && !qwen2.attention_output_bias && !qwen2.qk_norm);
        assert!(of("Qwen3ForCausalLM").qk_norm);
    }
}
