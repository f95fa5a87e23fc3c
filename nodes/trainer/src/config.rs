//! The trainer's keys.

use std::path::Path;

use difflow_inference::Decoding;
pub use difflow_model::ObjectiveKind;
use difflow_model::{AdamW, Context, Decay, DeviceSettings, LearningRate, Muon, Optimizer, StateKind};
use difflow_node_kit::problem::Kind;
use difflow_node_kit::{Config as NodeConfig, Node, Preset, Problem, RunKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::preset::{MaskedPositions, Normalisation};
pub use crate::rank_keys::{ReductionKind, ShardingKind, TransportKind};

/// The learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DecayKind {
    /// Stays as it is.
    Constant,
    /// Half a cosine down to FINAL_SHARE.
    #[default]
    Cosine,
    /// A straight line down to FINAL_SHARE.
    Linear,
    /// Warm-up, stable, decay: constant, then a straight line down to FINAL_SHARE over the last DECAY_STEPS.
    Wsd,
}

/// Arithmetic of the forward and backward passes; weights are always fp32.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionKind {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// bfloat16 matrix products.
    Bf16,
}

/// Whose kernels compute.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ArithmeticKind {
    /// difflow's where it has some, on the CPU and on a GPU.
    #[default]
    Difflow,
    /// libtorch's operations alone.
    Torch,
}

/// Whether updates are recorded as CUDA graphs.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CudaGraphs {
    /// Where they can be.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// What turns gradients into updates.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// AdamW for all parameters.
    #[default]
    Adamw,
    /// Muon for the matrices of the blocks, AdamW for embeddings, positions, output head, norms and biases. LEARNING_RATE and
    /// WEIGHT_DECAY serve both.
    Muon,
}

/// How the optimizer's state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerStateKind {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// bfloat16, rounded at random (by keyed draws): half the memory.
    Bf16,
}

/// What the trainer can be told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Key of all random numbers of the run.
    pub seed: u64,
    /// The model to start from: a Hugging Face directory, or a hub id such as `openai-community/gpt2` (`owner/name@revision`), which is
    /// fetched into the Hugging Face cache.
    pub base_model: String,
    /// A model recipe of a plug-in, by path or component id, for a base model that difflow does not know by name. Empty for none.
    pub model_recipe: String,
    /// Options of the model recipe, as a JSON object.
    pub model_recipe_config: String,
    /// A torch model of a plug-in, by path or component id: the base model then has the plug-in's own forward pass. Empty for none.
    pub torch_model: String,
    /// Options of the torch model, as a JSON object.
    pub torch_model_config: String,
    /// true: ignore the base model's weights and start from random ones (only its config.json is read).
    pub from_scratch: bool,
    /// Where keys that say `preset` (or are not set) get their value: recommended, or parity for what the paper's code does.
    /// Set it for all nodes: the noiser has such keys, too.
    pub preset: Preset,
    /// diffusion, block (diffusion block by block, on the clean text before each block; the noiser's BLOCK_SIZE says the sizes) or ar.
    pub objective: ObjectiveKind,
    /// true: the hidden state at i predicts token i+1, as in the base model (for the first token of a block: that of the clean text).
    /// false: token i.
    pub shift: bool,
    /// For OBJECTIVE: block: what the clean text sees of itself.
    pub context: Context,
    /// For OBJECTIVE: block with CONTEXT: causal: the clean text of rows that are cut into blocks learns to predict its next token, as in
    /// the base model, and the loss is diffusion + AR_WEIGHT · AR. The cross-entropies of both are added up over the global batch and
    /// divided by its maskable tokens: where no row is whole (`row` in BLOCK_SIZE), those are the targets of the AR loss too. 0.6 is a good
    /// value; 0 for none.
    #[schemars(range(min = 0))]
    pub ar_weight: f64,
    /// Above 0: the hidden states with which the model predicts a masked token are drawn to those with which the base model, whose weights
    /// stay, predicts it from the clean text left of it (REPR-ALIGN, arXiv 2605.06885, has 10). The loss is the objective's + ALIGN_WEIGHT ·
    /// (1 − cosine, mean over the layers), added up over the masked tokens and divided as the objective's. Costs a causal forward more.
    #[schemars(range(min = 0))]
    pub align_weight: f64,
    /// Above 0, for a base model with experts (Mixtral, Qwen3-MoE): the loss is the objective's + ROUTER_WEIGHT · the load-balancing loss of
    /// the routers as `transformers` computes it: E · Σ over the E experts of how often a token chose the expert, in the mean, times its mean
    /// share, over the tokens of a micro-batch that are not padding, in all layers together. It is the number of experts of a token where all
    /// experts have as much to do, and is weighed as the objective of its micro-batch is. `transformers` adds it with the weight
    /// `router_aux_loss_coef` of config.json, and only where `output_router_logits` is true there, which it usually is not.
    #[schemars(range(min = 0))]
    pub router_weight: f64,
    /// Above 0: BASE_MODEL stays as it is, and an adapter of this rank is trained beside its matrices (LoRA, arXiv 2106.09685). Checkpoints
    /// hold the adapter only, in PEFT's files, and name the base model.
    pub lora_rank: usize,
    /// The adapter's product is multiplied by LORA_ALPHA / LORA_RANK. Not set: LORA_RANK.
    pub lora_alpha: Option<f64>,
    /// true: by LORA_ALPHA / √LORA_RANK instead (rsLoRA).
    pub lora_rank_stabilised: bool,
    /// Matrices that are adapted: `all-linear` for all of the blocks, or the ends of their names with commas between them, such as
    /// `q_proj,v_proj`. Routers and experts are not adapted: `all-linear` leaves them out.
    pub lora_targets: String,
    /// Share of the adapter's inputs that is dropped in training.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub lora_dropout: f64,
    /// Modules that are trained and saved whole beside the adapter, by the ends of their names with commas between them, such as
    /// `embed_tokens,lm_head`. Where the mask token is added, those with a row for each token are among them in any case.
    pub lora_whole: String,
    /// How the matrices of BASE_MODEL that are not trained are kept beside an adapter. bf16 takes half the memory, and those that are bf16
    /// in the files lose nothing; others are rounded for the training only. Later programs read the base model's files as they are.
    pub lora_base: PrecisionKind,
    /// true: attention stays inside a document. Not set: true by recommended, false by parity.
    pub document_attention: Option<bool>,
    /// Which positions count as masked.
    pub masked_positions: MaskedPositions,
    /// The mask token of a base model without one: `added` for one more row of the embedding, the id of a token of the
    /// vocabulary, or `preset`: added by recommended; by parity 10541 for GPT-2 small, 811 for LLaMA-2, else added.
    pub mask_token: String,
    /// Share of activations dropped in training, at GPT-2's places. Not set: 0 by recommended; by parity what the base model's
    /// config.json says (0.1 for GPT-2).
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub dropout: Option<f64>,
    /// How the loss is divided.
    pub normalisation: Normalisation,
    /// How attention goes from causal to full: an annealing schedule of difflow (linear, cosine, step, exponential, none, band,
    /// blocks), or one of a plug-in, by path (`lib.so` or `lib.so#component`) or component id. `difflow plugin list` shows what there is.
    pub annealing_schedule: String,
    /// Options of the annealing schedule, as a JSON object; `difflow plugin show` explains them.
    pub annealing_schedule_config: String,
    /// Optimizer steps until attention is full, for schedules with an option `anneal_steps` that the configuration does not set.
    /// Not set: a sixth of STEPS by recommended; 10000 by parity.
    #[schemars(range(min = 1))]
    pub anneal_steps: Option<u64>,
    /// Optimizer steps of the run.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// Micro-batches per optimizer step, of all ranks together; t is stratified over all of them.
    #[schemars(range(min = 1))]
    pub accumulation: u64,
    /// Peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Shape of the learning rate after the warm-up.
    pub decay: DecayKind,
    /// Steps of linear rise to the peak.
    pub warmup_steps: u64,
    /// Steps of the fall at the end of the run; only for DECAY: wsd.
    #[schemars(range(min = 1))]
    pub decay_steps: u64,
    /// Learning rate at the end, as a share of the peak.
    #[schemars(range(min = 0, max = 1))]
    pub final_share: f64,
    /// adamw or muon.
    pub optimizer: OptimizerKind,
    /// fp32 or bf16.
    pub optimizer_state: OptimizerStateKind,
    /// Share of its momentum that Muon keeps in a step.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub muon_momentum: f64,
    /// AdamW's β1.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub beta1: f64,
    /// AdamW's β2.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub beta2: f64,
    /// Decoupled weight decay, on matrices.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Largest gradient norm; 0 does not clip.
    #[schemars(range(min = 0))]
    pub clip: f64,
    /// Keep an exponential moving average of the weights with this decay per step, and publish it in place of the weights;
    /// 0 keeps none. 0.999 is usual for long runs.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub ema_decay: f64,
    /// true: blocks are computed again in the backward pass instead of keeping their activations: a third more arithmetic for
    /// much less memory, and the same gradients.
    pub activation_checkpointing: bool,
    /// fp32 or bf16.
    pub precision: PrecisionKind,
    /// difflow (its own kernels where it has some) or torch (libtorch's operations alone: slower, to compare with).
    pub arithmetic: ArithmeticKind,
    /// auto, cpu, cuda or cuda:N. Of several ranks with `auto` or `cuda`, each takes the next GPU of its machine; with `cuda:N`, all take that one.
    pub device: String,
    /// On a GPU: products of fp32 matrices in TF32, with 10 bits of mantissa, at several times the speed.
    pub tf32: bool,
    /// On a GPU: the same bits in every run on the same kind of GPU; an operation that cannot give them is an error. The CPU always gives
    /// them.
    pub deterministic: bool,
    /// On a GPU: auto records an update whose shapes come again as a CUDA graph, which then takes one call in place of thousands: for small
    /// models. It takes the memory of a second step's activations, and is left where there is none; the weights are the same. off records
    /// nothing.
    #[schemars(extend("x-may-change" = true))]
    pub cuda_graphs: CudaGraphs,
    /// On a GPU: the most of its memory that this node takes, as a share.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0, "x-may-change" = true))]
    pub memory_fraction: f64,
    /// Threads of the CPU, of each rank; the same number gives the same weights.
    #[schemars(range(min = 1))]
    pub threads: usize,
    /// For several ranks: what each keeps of weights, gradients and optimizer. The bytes of the result are the same.
    #[schemars(extend("x-may-change" = true))]
    pub sharding: ShardingKind,
    /// For several ranks: in which order the gradients are added up.
    #[schemars(extend("x-may-change" = true))]
    pub reduction: ReductionKind,
    /// For several ranks on GPUs: how they exchange what is there.
    #[schemars(extend("x-may-change" = true))]
    pub transport: TransportKind,
    /// For several ranks: `auto` where all are on one machine; else HOST:PORT, at which rank 0 waits for the others. It is neither encrypted
    /// nor protected: for private networks.
    #[schemars(extend("x-may-change" = true))]
    pub rendezvous: String,
    /// For several ranks: seconds until all have met.
    #[schemars(extend("exclusiveMinimum" = 0, "x-may-change" = true))]
    pub join_timeout: f64,
    /// For several ranks: seconds that one waits for another in a step, before the run ends; longer than a checkpoint takes.
    #[schemars(extend("exclusiveMinimum" = 0, "x-may-change" = true))]
    pub group_timeout: f64,
    /// How the checkpoints want to be decoded, as a JSON object of the sampler's decoding keys, such as {"DECODER": "speculative"}:
    /// `difflow sample` does so where nothing else is asked of it. It is written to generation_config.json.
    pub generation_config: String,
    /// Optimizer steps between checkpoints.
    #[schemars(range(min = 1))]
    pub checkpoint_every: u64,
    /// Batches asked for ahead of the one at work; less than the edge's queue_size.
    #[schemars(range(min = 1), extend("x-may-change" = true))]
    pub prefetch: u32,
    /// Seconds of silence after which a batch is asked for again; twice as long each further time.
    #[schemars(extend("exclusiveMinimum" = 0, "x-may-change" = true))]
    pub patience_seconds: f64,
    /// Stop after this many steps in a row whose loss or gradient is not a number.
    #[schemars(range(min = 1))]
    pub max_bad_steps: u64,
    /// Seconds to wait before every step: for trying out a slow trainer.
    #[schemars(range(min = 0), extend("x-may-change" = true))]
    pub slow_down_seconds: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunKeys::default(),
            seed: 0,
            base_model: "data/tiny/model".into(),
            model_recipe: String::new(),
            model_recipe_config: "{}".into(),
            torch_model: String::new(),
            torch_model_config: "{}".into(),
            from_scratch: false,
            preset: Preset::default(),
            objective: ObjectiveKind::default(),
            shift: true,
            context: Context::default(),
            ar_weight: 0.0,
            align_weight: 0.0,
            router_weight: 0.0,
            lora_rank: 0,
            lora_alpha: None,
            lora_rank_stabilised: false,
            lora_targets: "all-linear".into(),
            lora_dropout: 0.0,
            lora_whole: String::new(),
            lora_base: PrecisionKind::default(),
            document_attention: None,
            masked_positions: MaskedPositions::default(),
            mask_token: "preset".into(),
            dropout: None,
            normalisation: Normalisation::default(),
            annealing_schedule: "linear".into(),
            annealing_schedule_config: "{}".into(),
            anneal_steps: None,
            steps: 1_000,
            accumulation: 1,
            learning_rate: 3e-4,
            decay: DecayKind::default(),
            warmup_steps: 100,
            decay_steps: 100,
            final_share: 0.1,
            optimizer: OptimizerKind::default(),
            optimizer_state: OptimizerStateKind::default(),
            muon_momentum: Muon::default().momentum,
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.0,
            clip: 1.0,
            ema_decay: 0.0,
            activation_checkpointing: false,
            precision: PrecisionKind::default(),
            arithmetic: ArithmeticKind::default(),
            device: "auto".into(),
            tf32: false,
            deterministic: false,
            cuda_graphs: CudaGraphs::default(),
            memory_fraction: 1.0,
            threads: 2,
            sharding: ShardingKind::default(),
            reduction: ReductionKind::default(),
            transport: TransportKind::default(),
            rendezvous: "auto".into(),
            join_timeout: 300.0,
            group_timeout: 120.0,
            generation_config: "{}".into(),
            checkpoint_every: 500,
            prefetch: 4,
            patience_seconds: 2.0,
            max_bad_steps: 10,
            slow_down_seconds: 0.0,
        }
    }
}

impl Config {
    /// How CUDA computes in this process.
    pub fn device_settings(&self) -> DeviceSettings {
        let (tf32, deterministic, memory_fraction) = (self.tf32, self.deterministic, self.memory_fraction);
        DeviceSettings { tf32, deterministic, memory_fraction }
    }

    /// What turns gradients into updates.
    pub fn optimizer(&self) -> Optimizer {
        Optimizer {
            adamw: AdamW {
                beta1: self.beta1,
                beta2: self.beta2,
                weight_decay: self.weight_decay,
                clip: (self.clip > 0.0).then_some(self.clip),
                ..AdamW::default()
            },
            muon: match self.optimizer {
                OptimizerKind::Adamw => None,
                OptimizerKind::Muon => Some(Muon { momentum: self.muon_momentum }),
            },
            state: match self.optimizer_state {
                OptimizerStateKind::Fp32 => StateKind::Fp32,
                OptimizerStateKind::Bf16 => StateKind::Bf16,
            },
        }
    }

    /// The learning rate over the run.
    pub fn learning_rate(&self) -> LearningRate {
        LearningRate {
            peak: self.learning_rate,
            decay: match self.decay {
                DecayKind::Constant => Decay::Constant,
                DecayKind::Cosine => Decay::Cosine,
                DecayKind::Linear => Decay::Linear,
                DecayKind::Wsd => Decay::Wsd { decay_steps: self.decay_steps },
            },
            warmup_steps: self.warmup_steps,
            total_steps: self.steps,
            final_share: self.final_share,
        }
    }
}

impl Config {
    /// How the checkpoints want to be decoded. Errors if that is no JSON object of decoding options.
    pub fn generation(&self) -> Result<Map<String, Value>, Problem> {
        let wrong = |why: String| Problem::new("GENERATION_CONFIG", &self.generation_config, why);
        let object = "allowed: a JSON object of decoding keys, such as {\"DECODER\": \"threshold\"}";
        let options: Map<String, Value> =
            serde_json::from_str(&self.generation_config).map_err(|e| wrong(format!("{e}; {object}")))?;
        Decoding::default().with(&options).map_err(wrong)?;
        Ok(options)
    }
}

impl NodeConfig for Config {
    fn run(&self) -> &RunKeys {
        &self.run
    }

    fn validate(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.generation().err().into_iter().collect();
        let path = Path::new(&self.base_model).join("config.json");
        if !path.is_file() && !difflow_hub::is_id(&self.base_model) {
            let allowed = "no such file; paths are relative to the dataflow file";
            problems.push(Problem::new("BASE_MODEL", path.display(), allowed).of_kind(Kind::File));
        }
        if !matches!(self.mask_token.as_str(), "preset" | "added") && self.mask_token.parse::<u32>().is_err() {
            problems.push(Problem::new("MASK_TOKEN", &self.mask_token, "allowed: preset, added, or the id of a token"));
        }
        if self.activation_checkpointing && self.dropout.is_some_and(|dropout| dropout > 0.0) {
            let allowed = "allowed: 0 (or not set) with ACTIVATION_CHECKPOINTING: true";
            problems.push(Problem::new("DROPOUT", self.dropout.unwrap_or_default(), allowed));
        }
        let block = self.objective == ObjectiveKind::Block;
        if self.ar_weight > 0.0 && (!block || self.context != Context::Causal) {
            let allowed = "allowed: 0, unless OBJECTIVE is block and CONTEXT is causal";
            problems.push(Problem::new("AR_WEIGHT", self.ar_weight, allowed));
        }
        if self.align_weight > 0.0 && (self.objective == ObjectiveKind::Ar || self.from_scratch) {
            let allowed = "allowed: 0 with OBJECTIVE: ar or FROM_SCRATCH: true";
            problems.push(Problem::new("ALIGN_WEIGHT", self.align_weight, allowed));
        }
        if self.lora_rank > 0 && self.from_scratch {
            let allowed = "allowed: 0 with FROM_SCRATCH: true: an adapter changes a base model";
            problems.push(Problem::new("LORA_RANK", self.lora_rank, allowed));
        }
        if self.lora_base == PrecisionKind::Bf16 && self.lora_rank == 0 {
            let allowed = "allowed: fp32 with LORA_RANK: 0: without an adapter all matrices are trained";
            problems.push(Problem::new("LORA_BASE", "bf16", allowed));
        }
        if let Some(alpha) = self.lora_alpha.filter(|alpha| !(*alpha > 0.0 && alpha.is_finite())) {
            problems.push(Problem::new("LORA_ALPHA", alpha, "allowed: a number above 0"));
        }
        if block && !self.choices().document_attention {
            let allowed = "allowed: true with OBJECTIVE: block: blocks are those of a document";
            problems.push(Problem::new("DOCUMENT_ATTENTION", false, allowed));
        }
        if block && !self.torch_model.is_empty() {
            let allowed = "not together with OBJECTIVE: block: a torch model of a plug-in reads each position once; \
                 data/experiments/tiny-diffusion.yml is an experiment without blocks";
            problems.push(Problem::new("TORCH_MODEL", &self.torch_model, allowed));
        }
        if self.from_scratch && !self.model_recipe.is_empty() {
            let allowed = "a recipe reads weights: set one of FROM_SCRATCH and MODEL_RECIPE";
            problems.push(Problem::new("MODEL_RECIPE", &self.model_recipe, allowed));
        }
        if !self.torch_model.is_empty() {
            for (key, set, allowed) in [
                ("MODEL_RECIPE", !self.model_recipe.is_empty(), "the torch model reads the weights itself"),
                ("FROM_SCRATCH", self.from_scratch, "it begins with the weights of BASE_MODEL"),
                ("ACTIVATION_CHECKPOINTING", self.activation_checkpointing, "its forward is its own"),
                ("DROPOUT", self.dropout.is_some_and(|dropout| dropout > 0.0), "its forward is its own"),
                ("ALIGN_WEIGHT", self.align_weight > 0.0, "it does not say its layers"),
                ("ROUTER_WEIGHT", self.router_weight > 0.0, "it does not say whether it has routers"),
                ("LORA_RANK", self.lora_rank > 0, "its forward is its own"),
                (
                    "OPTIMIZER",
                    self.optimizer == OptimizerKind::Muon,
                    "it does not say which of its matrices are hidden; use adamw",
                ),
            ] {
                if set {
                    problems.push(Problem::new(key, "a value", format!("not together with TORCH_MODEL: {allowed}")));
                }
            }
        }
        if self.warmup_steps > self.steps {
            problems.push(Problem::new(
                "WARMUP_STEPS",
                self.warmup_steps,
                format!("allowed: at most STEPS ({})", self.steps),
            ));
        }
        problems
    }

    fn gone(key: &str) -> Option<&'static str> {
        (key == "TOKENIZER").then_some("the tokenizer node has it, and says with its batches which one it is")
    }

    /// Ranks have the same keys: those of rank 0 are the run's.
    fn recorded(node: &Node) -> eyre::Result<bool> {
        Ok(node.alike("noised")?.first().is_none_or(|first| *first == node.id()))
    }

    fn fetch(&mut self) -> Result<(), Problem> {
        difflow_hub::fetch_keys(&mut self.base_model, &mut String::new())
            .map_err(|(key, found, e)| Problem::new(key, found, e.to_string()).of_kind(Kind::File))
    }
}
