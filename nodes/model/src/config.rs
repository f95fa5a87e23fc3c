//! The definition of a model: the part of Hugging Face's `config.json` that determines tensors and arithmetic.
//!
//! Models differ by few options (where norms stand, biases, windows, scales), so one decoder serves all of them; a family's
//! file in `family/` says how its config.json spells them. Keys that difflow does not use are kept and written back, because
//! `transformers` reads them.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config_reader::Reader;
use crate::config_unsupported;
use crate::error::ModelError;
use crate::family;
pub use crate::family::Family;
use crate::objective::{Blocks, Objective, ObjectiveKind};
use crate::recipe::{RECIPE_FILE, Recipe};
use crate::released;
use crate::rope::Rope;

/// Where positions come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Rotary embeddings of queries and keys; layers say which ([`Layer::rope`]). Most models have one.
    Rotary(Vec<Rope>),
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

/// Where the norms of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// Before attention and feed-forward.
    Before,
    /// Behind them, before they are added to the residual stream (OLMo 2).
    After,
    /// Before and behind (Gemma 2 and 3).
    Both,
}

/// What the feed-forward half of a block reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// The residual stream with attention's result.
    Sequential,
    /// The block's input, behind a norm of its own.
    Parallel,
    /// The block's input, behind attention's norm.
    ParallelOneNorm,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNorm {
    /// RMS norm over each head, with one weight for all of them (Qwen3, Gemma 3).
    Shared,
    /// RMS norm over all heads together (OLMo 2).
    Whole,
    /// Layer norm over each head without a bias, with a weight for each head (StableLM).
    Each,
}

/// What distinguishes the attention of one layer from that of another.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Layer {
    /// Attention reaches back this many tokens, the current one included. What lies to the right is not narrowed.
    pub window: Option<usize>,
    /// Which of the rotary embeddings turns queries and keys; `None`: they have no positions.
    pub rope: Option<usize>,
    /// Queries · keys are multiplied by this; `None`: by 1 / √`head_dim`.
    pub scale: Option<f64>,
}

/// Feed-forward blocks of experts, of which a router chooses some for each token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that compute a token.
    pub chosen: usize,
    /// Intermediate size of an expert, which has a gate.
    pub width: usize,
    /// The shares of a token's experts are divided by their sum.
    pub normed: bool,
    /// Whether a layer has experts, else one feed-forward block for all tokens.
    pub in_layer: Vec<bool>,
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
    /// What each layer's attention has of its own.
    pub each: Vec<Layer>,
    pub norm: NormKind,
    pub norm_eps: f64,
    /// RMS norms multiply by 1 + weight (Gemma).
    pub norm_offset: bool,
    pub norms: Norms,
    pub residual: Residual,
    pub positions: Positions,
    pub activation: Activation,
    /// The output head is the embedding matrix.
    pub tied: bool,
    pub qkv_bias: bool,
    pub attention_output_bias: bool,
    pub mlp_bias: bool,
    /// The feed-forward block has a gate: down(act(gate(x)) ⊙ up(x)), else down(act(up(x))).
    pub gated: bool,
    pub experts: Option<Mixture>,
    pub qk_norm: Option<HeadNorm>,
    /// Scores s of attention become c · tanh(s / c) before anything is hidden.
    pub attention_softcap: Option<f64>,
    /// Logits likewise.
    pub logit_softcap: Option<f64>,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f64,
    /// What a half of a block adds to the residual stream is multiplied by this.
    pub residual_scale: f64,
    /// Logits are multiplied by this, before a softcap.
    pub logit_scale: f64,
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
    pub(crate) source: Map<String, Value>,
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
        let mut r = Reader::new(&spelled, path);
        r.variant = recipe.is_some();
        if let Some(mark) = r.torch_model()? {
            return Self::of_plugin(&r, mark);
        }
        let (table, architecture) = family::find(&r)?;
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
        let config = (table.read)(&r, shared.start(table.family))?;
        // What the family's file has read is computed.
        config_unsupported::check(&r)?;
        r.require(config.heads % config.kv_heads == 0, "num_key_value_heads", "a divisor of num_attention_heads")?;
        Ok(Self { source, recipe, ..config })
    }

    /// Reads `DIR/config.json` for a plug-in's torch model: its vocabulary, special tokens and longest sequence.
    pub(crate) fn load_torch(dir: &Path, mark: TorchMark) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(ModelError::read(&path))?;
        let source: Map<String, Value> =
            serde_json::from_str(&text).map_err(|source| ModelError::Json { path: path.clone(), source })?;
        Self::of_plugin(&Reader::new(&source, &path), mark)
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
            // How positions enter is the plug-in's; what its config.json says is the longest sequence is held to.
            max_positions: longest.unwrap_or(u32::MAX as usize),
            positions: Positions::Learned,
            torch_model: Some(mark),
            source: r.map.clone(),
            ..shared.start(Family::Foreign)
        })
    }

    /// Takes over the keys of a config.json that a plug-in wrote.
    pub(crate) fn merge(&mut self, written: Map<String, Value>) {
        self.source.extend(written);
    }

    /// How far back attention reaches in each layer. A plug-in's layers, which are its own, count as one.
    pub fn windows(&self) -> Vec<Option<usize>> {
        match self.family {
            Family::Foreign => vec![None],
            _ => self.each.iter().map(|layer| layer.window).collect(),
        }
    }

    /// The experts of a layer that has some.
    pub fn experts_of(&self, layer: usize) -> Option<&Mixture> {
        self.experts.as_ref().filter(|mixture| mixture.in_layer[layer])
    }

    /// Whether blocks are what most models have: norms before both halves, one half after the other, nothing scaled, no experts.
    pub(crate) fn has_plain_blocks(&self) -> bool {
        let usual = self.norms == Norms::Before && self.residual == Residual::Sequential;
        usual && self.residual_scale == 1.0 && self.experts.is_none()
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
                let table = self.family.table();
                map.entry("model_type").or_insert_with(|| json!(table.model_type));
                table.complete(&mut map);
                "vocab_size"
            }
        };
        map.insert(vocab_size.into(), json!(self.vocab_size));
        // `transformers` 4 knows the first, 5 both.
        map.insert("torch_dtype".into(), json!(dtype));
        if let Some(own) = map.get_mut("dtype") {
            *own = json!(dtype);
        }
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

/// The keys that all families spell alike.
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
    fn start(self, family: Family) -> ModelConfig {
        ModelConfig {
            family,
            architecture: self.architecture,
            vocab_size: self.vocab_size,
            hidden_size: 0,
            intermediate_size: 0,
            layers: 0,
            heads: 0,
            kv_heads: 0,
            head_dim: 0,
            max_positions: 0,
            each: Vec::new(),
            norm: NormKind::Rms,
            norm_eps: 0.0,
            norm_offset: false,
            norms: Norms::Before,
            residual: Residual::Sequential,
            positions: Positions::Learned,
            activation: Activation::Silu,
            tied: false,
            qkv_bias: false,
            attention_output_bias: false,
            mlp_bias: false,
            gated: false,
            experts: None,
            qk_norm: None,
            attention_softcap: None,
            logit_softcap: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
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
