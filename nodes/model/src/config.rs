//! The definition of a model: the part of Hugging Face's `config.json` that determines tensors and arithmetic.
//!
//! Related models differ only by flags (biases, q/k norm, tying), so one decoder serves all of them. Keys that
//! difflow does not use are kept and written back, because `transformers` reads them.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config_reader::{Reader, Windows, model_type};
use crate::config_unsupported;
use crate::error::ModelError;
use crate::objective::{Blocks, Objective, ObjectiveKind};
use crate::recipe::{RECIPE_FILE, Recipe};
use crate::released;
use crate::rope::Rope;

/// Where positions come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Rotary embedding of queries and keys (LLaMA and relatives).
    Rotary(Rope),
    /// A learned table of `max_positions` rows added to the token embeddings (GPT-2).
    Learned,
}

/// Kind of normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square, weight only.
    Rms,
    /// Mean and variance, weight and bias.
    Layer,
}

/// Activation of the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·σ(x).
    Silu,
    /// GELU by tanh (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// Exact GELU.
    Gelu,
    /// max(x, 0).
    Relu,
}

/// Naming and storage of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `model.layers.N.self_attn.q_proj.weight` `[out, in]`, gated feed-forward.
    Llama,
    /// `transformer.h.N.attn.c_attn.weight` `[in, out]` (Conv1D), plain feed-forward.
    Gpt2,
    /// What a plug-in's torch model makes of it.
    Foreign,
}

/// What marks a model as a diffusion language model: the `difflow` object of config.json.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapted {
    /// Token that stands for "not known yet".
    pub mask_token_id: u32,
    /// True when the hidden state at i predicts token i+1.
    pub shift: bool,
    /// What the weights were last trained for.
    pub objective: ObjectiveKind,
    /// Set when that is block diffusion.
    pub blocks: Option<Blocks>,
}

impl Adapted {
    /// Of a model that has just got its mask token: the base model's way of predicting, and full diffusion.
    pub(crate) fn new(mask_token_id: u32) -> Self {
        Self { mask_token_id, shift: true, objective: ObjectiveKind::Diffusion, blocks: None }
    }

    /// The marks of weights that are trained for an objective.
    pub(crate) fn trained_for(self, objective: Objective) -> Self {
        let (shift, blocks) = match objective {
            Objective::Diffusion { shift } => (shift, None),
            Objective::Ar => (self.shift, None),
            Objective::Block(blocks) => (blocks.shift, Some(blocks)),
        };
        Self { mask_token_id: self.mask_token_id, shift, objective: objective.kind(), blocks }
    }
}

/// Which plug-in computes a model: the `difflow.torch_model` object of config.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TorchMark {
    /// Id of the component.
    pub id: String,
    /// Its configuration, JSON.
    pub config: String,
}

/// Shape of a decoder-only transformer. Sizes are counts, never bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    /// First entry of `architectures`, or what `model_type` implies.
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Longest sequence the model was trained for; a hard limit for learned positions only.
    pub max_positions: usize,
    pub norm: NormKind,
    pub norm_eps: f64,
    pub positions: Positions,
    pub activation: Activation,
    /// The output head is the embedding matrix.
    pub tied: bool,
    pub qkv_bias: bool,
    pub attention_output_bias: bool,
    pub mlp_bias: bool,
    /// The feed-forward block has a gate: down(act(gate(x)) ⊙ up(x)), else down(act(up(x))).
    pub gated: bool,
    /// RMS norm over each head of queries and keys (Qwen3).
    pub qk_norm: bool,
    /// Attention reaches back this many tokens, the current one included, in every layer (Mistral). What lies to the right is
    /// not narrowed.
    pub sliding_window: Option<usize>,
    pub bos_token_id: Option<u32>,
    /// Every id that ends a text (some models have several).
    pub eos_token_ids: Vec<u32>,
    /// Standard deviation of random initial weights.
    pub initializer_range: f64,
    /// The dropout that config.json names for training (`resid_pdrop`, 0.1 where GPT-2 leaves it out; elsewhere 0). Nothing is
    /// dropped unless [`crate::Learner::set_dropout`] says so.
    pub trained_dropout: f64,
    /// Set once the model has a mask token.
    pub adapted: Option<Adapted>,
    pub(crate) recipe: Option<Recipe>,
    pub(crate) torch_model: Option<TorchMark>,
    source: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `DIR/config.json`, and `DIR/difflow_recipe.json` where there is one; released checkpoints of DiffuGPT need none.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(RECIPE_FILE);
        let recipe = if path.exists() {
            Some(Recipe::from_json(&std::fs::read(&path).map_err(ModelError::read(&path))?, &path)?)
        } else {
            released::recipe(dir)?.map(|text| Recipe::from_json(text.as_bytes(), &path)).transpose()?
        };
        Self::load_with(dir, recipe)
    }

    pub(crate) fn load_with(dir: &Path, recipe: Option<Recipe>) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(ModelError::read(&path))?;
        Self::read(&text, &path, recipe)
    }

    /// Reads the text of a config.json; `path` is only named in errors.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, ModelError> {
        Self::read(text, path, None)
    }

    fn read(text: &str, path: &Path, recipe: Option<Recipe>) -> Result<Self, ModelError> {
        let source: Map<String, Value> =
            serde_json::from_str(text).map_err(|source| ModelError::Json { path: path.to_owned(), source })?;
        let mut spelled = recipe.as_ref().map_or_else(|| source.clone(), |recipe| recipe.spelled(&source));
        if let Some(recipe) = &recipe {
            spelled.insert("architectures".into(), json!([recipe.base]));
        }
        let r = Reader { map: &spelled, file: path };
        if let Some(mark) = r.torch_model()? {
            return Self::of_plugin(&r, mark);
        }
        let architecture = r.architecture()?;
        let gpt2 = architecture.starts_with("GPT2");
        config_unsupported::check(&r)?;
        let (vocab_size, initializer_range) = (r.size("vocab_size")?, r.number_or("initializer_range", 0.02)?);
        let adapted = r.adapted(vocab_size)?;
        // A model that was trained to see both sides is no base to be adapted, and has no next-token logits.
        r.require(
            r.flag("is_causal")?.unwrap_or(true) || adapted.is_some(),
            "is_causal",
            "true, without a mask token",
        )?;
        let (bos_token_id, eos_token_ids) = (r.token("bos_token_id")?, r.tokens("eos_token_id")?);
        let shared = Shared { architecture, vocab_size, initializer_range, adapted, bos_token_id, eos_token_ids };
        let config = if gpt2 { Self::gpt2(&r, shared)? } else { Self::llama(&r, shared, recipe.is_some())? };
        r.require(config.heads % config.kv_heads == 0, "num_key_value_heads", "a divisor of num_attention_heads")?;
        r.require(
            config.head_dim % 2 == 0 || config.positions == Positions::Learned,
            "head_dim",
            "an even number (rotary embedding turns pairs)",
        )?;
        Ok(Self { source, recipe, ..config })
    }

    /// Reads `DIR/config.json` for a plug-in's torch model: its vocabulary, special tokens and longest sequence.
    pub(crate) fn load_torch(dir: &Path, mark: TorchMark) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(ModelError::read(&path))?;
        let source: Map<String, Value> =
            serde_json::from_str(&text).map_err(|source| ModelError::Json { path: path.clone(), source })?;
        Self::of_plugin(&Reader { map: &source, file: &path }, mark)
    }

    fn of_plugin(r: &Reader, mark: TorchMark) -> Result<Self, ModelError> {
        let (vocab_size, initializer_range) = (r.size("vocab_size")?, 0.0);
        let architecture = format!("the torch model {}", mark.id);
        let adapted = r.adapted(vocab_size)?;
        let (bos_token_id, eos_token_ids) = (r.token("bos_token_id")?, r.tokens("eos_token_id")?);
        let shared = Shared { architecture, vocab_size, initializer_range, adapted, bos_token_id, eos_token_ids };
        let longest = match r.size_opt("max_position_embeddings")? {
            Some(longest) => Some(longest),
            None => r.size_opt("n_positions")?,
        };
        Ok(Self {
            family: Family::Foreign,
            // How positions enter is the plug-in's; what its config.json says is the longest sequence is held to.
            max_positions: longest.unwrap_or(u32::MAX as usize),
            positions: Positions::Learned,
            torch_model: Some(mark),
            source: r.map.clone(),
            ..shared.start()
        })
    }

    /// Takes over the keys of a config.json that a plug-in wrote.
    pub(crate) fn merge(&mut self, written: Map<String, Value>) {
        self.source.extend(written);
    }

    /// With `recipe`, the base of a variant.
    fn llama(r: &Reader, shared: Shared, recipe: bool) -> Result<Self, ModelError> {
        let (hidden_size, heads) = (r.size("hidden_size")?, r.size("num_attention_heads")?);
        let head_dim = match r.size_opt("head_dim")? {
            Some(found) => found,
            None => {
                r.require(hidden_size % heads == 0, "num_attention_heads", "a divisor of hidden_size")?;
                hidden_size / heads
            }
        };
        let (qwen2, qwen3) = (shared.architecture.starts_with("Qwen2"), shared.architecture.starts_with("Qwen3"));
        let attention_bias = r.flag("attention_bias")?.unwrap_or(false);
        let mistral = shared.architecture.starts_with("Mistral");
        // What `transformers` takes where the key is left out; scalings of the rotary embedding go by it.
        let usual = if mistral {
            131_072
        } else if qwen2 || qwen3 {
            32_768
        } else {
            2048
        };
        let max_positions = r.size_opt("max_position_embeddings")?.unwrap_or(usual);
        let layers = r.size("num_hidden_layers")?;
        let windows = if mistral {
            Windows::EveryLayer { usual: Some(4096) }
        } else if qwen2 || qwen3 {
            Windows::Chosen
        } else if recipe {
            // Families near LLaMA have a window in every layer where their config.json names one.
            Windows::EveryLayer { usual: None }
        } else {
            Windows::None
        };
        let window = r.window(windows, layers)?;
        Ok(Self {
            family: Family::Llama,
            hidden_size,
            intermediate_size: r.size("intermediate_size")?,
            layers,
            heads,
            kv_heads: r.size_opt("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            max_positions,
            norm: if r.choice("norm", "rms", "layer")? { NormKind::Layer } else { NormKind::Rms },
            norm_eps: r.number_or("rms_norm_eps", 1e-6)?,
            positions: Positions::Rotary(r.rope(max_positions)?),
            activation: r.activation("hidden_act", "silu")?,
            tied: r.flag("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: r.flag("qkv_bias")?.unwrap_or(qwen2 || attention_bias),
            attention_output_bias: r.flag("attention_output_bias")?.unwrap_or(attention_bias && !qwen2),
            mlp_bias: r.flag("mlp_bias")?.unwrap_or(false),
            gated: !r.choice("mlp", "gated", "plain")?,
            qk_norm: r.flag("qk_norm")?.unwrap_or(qwen3),
            sliding_window: window,
            ..shared.start()
        })
    }

    fn gpt2(r: &Reader, shared: Shared) -> Result<Self, ModelError> {
        let (hidden_size, heads) = (r.size("n_embd")?, r.size("n_head")?);
        // `transformers` takes these names for the same things, and of two the last.
        for (other, own) in GPT2_ALIASES {
            let (found, said) = (r.size_opt(other)?, r.size_opt(own)?);
            r.require(found.is_none() || found == said, other, &format!("what `{own}` says"))?;
        }
        r.require(hidden_size % heads == 0, "n_head", "a divisor of n_embd")?;
        Ok(Self {
            family: Family::Gpt2,
            hidden_size,
            intermediate_size: r.size_opt("n_inner")?.unwrap_or(4 * hidden_size),
            layers: r.size("n_layer")?,
            heads,
            kv_heads: heads,
            head_dim: hidden_size / heads,
            max_positions: r.size_opt("n_positions")?.unwrap_or(1024),
            norm: NormKind::Layer,
            norm_eps: r.number_or("layer_norm_epsilon", 1e-5)?,
            positions: Positions::Learned,
            activation: r.activation("activation_function", "gelu_new")?,
            trained_dropout: r.share_or("resid_pdrop", 0.1)?,
            tied: r.flag("tie_word_embeddings")?.unwrap_or(true),
            qkv_bias: true,
            attention_output_bias: true,
            mlp_bias: true,
            ..shared.start()
        })
    }

    /// The first position that `position` attends to.
    pub(crate) fn reach(&self, position: usize) -> usize {
        self.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The mask token, or the error that says how to get one.
    pub fn mask_token_id(&self) -> Result<u32, ModelError> {
        self.adapted.as_ref().map(|a| a.mask_token_id).ok_or(ModelError::NoMaskToken)
    }

    /// config.json as written beside weights of the given dtype: the keys it was read from, with the vocabulary's size and the
    /// `difflow` object of now. Two-space indentation, one newline at the end, the same bytes every time.
    pub fn to_json(&self, dtype: &str) -> String {
        let mut map = self.source.clone();
        let vocab_size = match &self.recipe {
            Some(recipe) => recipe.keys.get("vocab_size").map_or("vocab_size", String::as_str),
            None if self.torch_model.is_some() => "vocab_size",
            None => {
                map.insert("architectures".into(), json!([self.architecture]));
                // Without it `transformers` does not know what it reads.
                map.entry("model_type").or_insert_with(|| json!(model_type(&self.architecture)));
                "vocab_size"
            }
        };
        map.insert(vocab_size.into(), json!(self.vocab_size));
        let key = if map.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        map.insert(key.into(), json!(dtype));
        if let Some(adapted) = &self.adapted {
            let mut marks = map.get("difflow").and_then(Value::as_object).cloned().unwrap_or_default();
            marks.insert("mask_token_id".into(), json!(adapted.mask_token_id));
            marks.insert("shift".into(), json!(adapted.shift));
            marks.insert("objective".into(), json!(adapted.objective));
            match adapted.blocks {
                Some(blocks) => marks.insert("block".into(), json!(blocks)),
                None => marks.remove("block"),
            };
            map.insert("difflow".into(), Value::Object(marks));
            map.insert("mask_token_id".into(), json!(adapted.mask_token_id));
        }
        if let Some(TorchMark { id, config }) = &self.torch_model {
            let mut marks = map.get("difflow").and_then(Value::as_object).cloned().unwrap_or_default();
            marks.insert("torch_model".into(), json!({"id": id, "config": config}));
            map.insert("difflow".into(), Value::Object(marks));
        }
        let mut text = serde_json::to_string_pretty(&map).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Keys that `transformers` reads as GPT-2's own.
const GPT2_ALIASES: [(&str, &str); 4] = [
    ("hidden_size", "n_embd"),
    ("num_attention_heads", "n_head"),
    ("num_hidden_layers", "n_layer"),
    ("max_position_embeddings", "n_positions"),
];

/// The keys that both families spell alike.
struct Shared {
    architecture: String,
    vocab_size: usize,
    initializer_range: f64,
    adapted: Option<Adapted>,
    bos_token_id: Option<u32>,
    eos_token_ids: Vec<u32>,
}

impl Shared {
    /// A configuration with the shared keys set and everything else empty, for `..` in a struct literal.
    fn start(self) -> ModelConfig {
        ModelConfig {
            family: Family::Llama,
            architecture: self.architecture,
            vocab_size: self.vocab_size,
            hidden_size: 0,
            intermediate_size: 0,
            layers: 0,
            heads: 0,
            kv_heads: 0,
            head_dim: 0,
            max_positions: 0,
            norm: NormKind::Rms,
            norm_eps: 0.0,
            positions: Positions::Learned,
            activation: Activation::Silu,
            tied: false,
            qkv_bias: false,
            attention_output_bias: false,
            mlp_bias: false,
            gated: false,
            qk_norm: false,
            sliding_window: None,
            bos_token_id: self.bos_token_id,
            eos_token_ids: self.eos_token_ids,
            initializer_range: self.initializer_range,
            trained_dropout: 0.0,
            adapted: self.adapted,
            recipe: None,
            torch_model: None,
            source: Map::new(),
        }
    }
}
