//! Typed access to the keys of a config.json, with errors that give file, key, found and expected value.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::config::{Activation, Adapted, TorchMark};
use crate::error::ModelError;
use crate::objective::{Blocks, ObjectiveKind};

/// The most layers of a model: more are a damaged file.
const LAYERS: usize = 10_000;

pub(crate) struct Reader<'a> {
    pub map: &'a Map<String, Value>,
    pub file: &'a Path,
    /// What is read is a variant that a recipe describes.
    pub variant: bool,
    /// Keys that were asked for.
    seen: RefCell<BTreeSet<String>>,
}

impl<'a> Reader<'a> {
    pub fn new(map: &'a Map<String, Value>, file: &'a Path) -> Self {
        Self { map, file, variant: false, seen: RefCell::default() }
    }
}

impl Reader<'_> {
    pub fn wrong(&self, key: &str, wanted: &str) -> ModelError {
        let found = self.map.get(key).map_or("nothing".to_owned(), Value::to_string);
        ModelError::Config { file: self.file.to_owned(), key: key.to_owned(), found, wanted: wanted.to_owned() }
    }

    /// The value of a key; null is none.
    pub fn get(&self, key: &str) -> Option<&Value> {
        if !self.seen.borrow().contains(key) {
            self.seen.borrow_mut().insert(key.to_owned());
        }
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether somebody has asked for a key.
    pub fn has_seen(&self, key: &str) -> bool {
        self.seen.borrow().contains(key)
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

    /// A size that null turns off; without the key the `usual` one.
    pub fn size_or_none(&self, key: &str, usual: Option<usize>) -> Result<Option<usize>, ModelError> {
        let usual = if self.map.contains_key(key) { None } else { usual };
        Ok(self.size_opt(key)?.or(usual))
    }

    /// Of a soft cap the same.
    pub fn cap(&self, key: &str, usual: Option<f64>) -> Result<Option<f64>, ModelError> {
        match self.get(key) {
            Some(_) => self.number_or(key, 1.0).map(Some),
            None if self.map.contains_key(key) => Ok(None),
            None => Ok(usual),
        }
    }

    /// The number of layers.
    pub fn layers(&self, key: &str) -> Result<usize, ModelError> {
        let layers = self.size(key)?;
        self.require(layers <= LAYERS, key, &format!("at most {LAYERS}"))?;
        Ok(layers)
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

    pub fn activation(&self, key: &str, usual: Activation) -> Result<Activation, ModelError> {
        match self.get(key).map(Value::as_str) {
            None => Ok(usual),
            Some(Some("silu" | "swish")) => Ok(Activation::Silu),
            Some(Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast")) => Ok(Activation::GeluTanh),
            Some(Some("gelu")) => Ok(Activation::Gelu),
            Some(Some("relu")) => Ok(Activation::Relu),
            Some(_) => Err(self.wrong(key, "silu, gelu, gelu_new, gelu_pytorch_tanh or relu")),
        }
    }

    /// `layer_types`: for each layer whether its attention has a window.
    pub fn layer_types(&self, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let Some(value) = self.get("layer_types") else { return Ok(None) };
        let sliding = |kind: &Value| match kind.as_str() {
            Some("full_attention") => Some(false),
            Some("sliding_attention") => Some(true),
            _ => None,
        };
        let kinds = value.as_array().filter(|kinds| kinds.len() == layers);
        let kinds = kinds.and_then(|kinds| kinds.iter().map(sliding).collect::<Option<Vec<bool>>>());
        let wanted = format!("{layers} of full_attention or sliding_attention");
        kinds.map(Some).ok_or_else(|| self.wrong("layer_types", &wanted))
    }

    /// The window of each layer. Errors if a layer is to have one and there is none.
    pub fn windows(&self, sliding: &[bool], window: Option<usize>) -> Result<Vec<Option<usize>>, ModelError> {
        let holds = window.is_some() || !sliding.contains(&true);
        self.require(holds, "sliding_window", "a number of tokens, for the layers with sliding attention")?;
        Ok(sliding.iter().map(|sliding| window.filter(|_| *sliding)).collect())
    }

    /// The window that all layers have: `sliding_window`, without the key the `usual`, null for none.
    pub fn window_of_all(&self, layers: usize, usual: Option<usize>) -> Result<Vec<Option<usize>>, ModelError> {
        let used = self.flag("use_sliding_window")?.unwrap_or(true);
        let window = self.size_or_none("sliding_window", usual)?.filter(|_| used);
        if let Some(kinds) = self.layer_types(layers)? {
            let wanted = "the same for all layers, with a `sliding_window` if it is sliding attention";
            self.require(kinds.iter().all(|sliding| *sliding == window.is_some()), "layer_types", wanted)?;
        }
        Ok(vec![window; layers])
    }

    /// None, whatever `sliding_window` says.
    pub fn no_windows(&self, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
        let kinds = self.layer_types(layers)?.unwrap_or_default();
        self.require(!kinds.contains(&true), "layer_types", "full_attention in all layers")?;
        Ok(vec![None; layers])
    }

    /// A list with a 1 or a 0 for each layer, or more of them.
    pub fn marks(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let mark = |value: &Value| value.as_bool().or(value.as_u64().filter(|mark| *mark < 2).map(|mark| mark == 1));
        let marks = value.as_array().filter(|marks| marks.len() >= layers);
        let marks = marks.and_then(|marks| marks.iter().take(layers).map(mark).collect::<Option<Vec<bool>>>());
        marks.map(Some).ok_or_else(|| self.wrong(key, &format!("a list of 0 and 1, {layers} or more")))
    }

    /// A count, which may be 0.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
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
        let inner = marks.map(|map| Reader::new(map, self.file));
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use crate::config::{HeadNorm, ModelConfig, Positions};
    use crate::rope::RopeScaling;

    fn read(extra: &str) -> Result<ModelConfig, String> {
        let text = format!(
            r#"{{"architectures":["LlamaForCausalLM"],"vocab_size":32,"hidden_size":8,"intermediate_size":16,
                "num_hidden_layers":2,"num_attention_heads":2,"max_position_embeddings":64{extra}}}"#
        );
        ModelConfig::from_json(&text, Path::new("m/config.json")).map_err(|e| e.to_string())
    }

    /// Other mixtures of experts and models of more than text are not computed.
    #[test]
    fn unknown_architecture_is_named_with_what_is_allowed() {
        for name in ["MambaForCausalLM", "PhimoeForCausalLM", "Qwen2MoeForCausalLM", "Gemma3ForConditionalGeneration"] {
            let text = format!(r#"{{"architectures":["{name}"]}}"#);
            let error = ModelConfig::from_json(&text, Path::new("m/config.json")).unwrap_err().to_string();
            assert!(
                error.contains("m/config.json") && error.contains(name) && error.contains("Gemma3ForCausalLM"),
                "{error}"
            );
        }
    }

    #[test]
    fn scalings_are_read_in_both_spellings() {
        let scaling = |extra: &str| match read(extra).unwrap().positions {
            Positions::Rotary(ropes) => ropes[0].scaling.clone(),
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
        assert!(qwen2.qkv_bias && !qwen2.attention_output_bias && qwen2.qk_norm.is_none());
        assert_eq!(of("Qwen3ForCausalLM").qk_norm, Some(HeadNorm::Shared));
    }
}
