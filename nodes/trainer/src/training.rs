//! What one optimizer step does with its micro-batches.

use std::io::ErrorKind;
use std::path::Path;

use difflow_model::{
    Arithmetic, Blocks, Device, Learner, LearningRate, Loader, MicroBatch, Model, ModelError, Normaliser, Objective,
    ObjectiveOptions, Pattern, Precision, TorchPlugin, Unread,
};
use difflow_node_kit::{Problem, Problems, Share};
use difflow_plugin_host::{AnnealingSchedule, ModelRecipe};
use difflow_schema::{Facts, Noised};
use eyre::{Context, Result, eyre};

use crate::annealing;
use crate::config::{ArithmeticKind, Config, CudaGraphs, ObjectiveKind, PrecisionKind, ShardingKind};
use crate::preset::MaskToken;
use crate::ranks::Ranks;
use crate::save::ANNEALING_STATE;

/// A learner and how it is led through the steps.
pub struct Training {
    /// The model and its optimizer.
    pub learner: Learner,
    /// How attention goes from causal to full.
    pub annealing: AnnealingSchedule,
    learning_rate: LearningRate,
    under_way: Option<UnderWay>,
    /// The micro-batches of a step that are this process's.
    share: Share,
}

/// The optimizer step that micro-batches are being taken for.
struct UnderWay {
    attn_mask_ratio: f64,
    micro_batches: u64,
}

/// An optimizer step whose measurements have not been read yet.
#[derive(Debug)]
pub struct Finished {
    update: Unread,
    learning_rate: f64,
    attn_mask_ratio: f64,
}

impl Finished {
    /// Tokens that were not padding.
    pub fn tokens(&self) -> u64 {
        self.update.tokens()
    }
}

/// What one optimizer step measured.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Weighted loss per maskable token (AR: per target), nats.
    pub loss: f64,
    /// Mean cross-entropy of the positions that carried loss, nats.
    pub loss_unweighted: f64,
    /// Mean cross-entropy of the next tokens of the clean texts, nats, where there is an AR loss beside the other.
    pub loss_ar: Option<f64>,
    /// Mean distance to the base model's hidden states, with alignment.
    pub alignment: Option<f64>,
    /// Mean load-balancing loss of the routers, where it is beside the objective.
    pub router_loss: Option<f64>,
    /// Share of maskable tokens that carried loss.
    pub masked_share: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate used.
    pub learning_rate: f64,
    /// Share of the non-causal attention entries that was open.
    pub attn_mask_ratio: f64,
    /// Tokens that were not padding.
    pub tokens: u64,
    /// Positions that the forwards read, without padding.
    pub positions_read: u64,
    /// False when loss or gradient was not a number and the weights stayed as they were.
    pub finite: bool,
}

/// Loads (or initialises) the base model, with a mask token for diffusion, ready for step 0; to be trained with the other ranks, where there
/// are some.
pub fn begin(config: &Config, ranks: Option<&Ranks>) -> Result<Training> {
    let dir = Path::new(&config.base_model);
    let loader = Loader { apart: apart(config, ranks), ..loader(config, ranks)? };
    let model = match (config.from_scratch, loader.apart) {
        (true, false) => Model::initialise(dir, config.seed, loader.device),
        (true, true) => Model::initialise_apart(dir, config.seed, loader.device),
        (false, _) => loader.base(dir),
    };
    let mut model = model.with_context(|| format!("cannot load BASE_MODEL {}", dir.display()))?;
    let tokens = model.config().vocab_size;
    if config.objective != ObjectiveKind::Ar {
        match config.mask_token_for(model.config()) {
            Some(MaskToken::Added) => model.add_mask_token(config.seed)?,
            Some(MaskToken::Existing(id)) => model.use_mask_token(id)?,
            None => return Err(eyre!("MASK_TOKEN: found `{}`, wanted preset, added or a token id", config.mask_token)),
        };
    }
    if config.lora_rank > 0 {
        let added = model.config().vocab_size > tokens;
        model.add_adapter(&config.adapter(model.config(), added)?, config.seed)?;
    }
    training(config, model, ranks)
}

/// How the base model and the checkpoints are read.
fn loader(config: &Config, ranks: Option<&Ranks>) -> Result<Loader> {
    config.device_settings().set()?;
    let device = ranks.map_or_else(|| Device::open(&config.device), |ranks| Ok(ranks.device()))?;
    let recipe = ModelRecipe::named(&config.model_recipe, &config.model_recipe_config)
        .map_err(|e| Problems::from(Problem::new(e.key("MODEL_RECIPE"), &config.model_recipe, e.to_string())))?;
    let torch_model = TorchPlugin::named(&config.torch_model, &config.torch_model_config)
        .map_err(|e| Problems::from(Problem::new(e.key("TORCH_MODEL"), &config.torch_model, e.to_string())))?;
    Ok(Loader { recipe, torch_model, precision: precision(config), ..Loader::new(device) })
}

/// Whether each of several ranks reads its share of the weights only.
fn apart(config: &Config, ranks: Option<&Ranks>) -> bool {
    config.sharding == ShardingKind::Parameters && ranks.is_some_and(|ranks| ranks.group().is_some())
}

fn precision(config: &Config) -> Precision {
    match config.precision {
        PrecisionKind::Fp32 => Precision::Fp32,
        PrecisionKind::Bf16 => Precision::Bf16,
    }
}

/// Loads the checkpoint in `dir`. Errors if it is damaged, or ([`Problems`]) of another optimizer.
pub fn resume(config: &Config, dir: &Path, ranks: Option<&Ranks>) -> Result<Training> {
    let loader = Loader { apart: apart(config, ranks), ..loader(config, ranks)? };
    let model = loader.checkpoint(dir)?;
    let mut training = training(config, model, ranks)?;
    training.learner.load_optimizer(dir).map_err(|e| match e {
        ModelError::OtherOptimizer { ref found, wanted, .. } => {
            let was = format!("this run began with {found}; put it back, or choose another RUN ({e})");
            eyre::Report::from(Problems::from(Problem::new("OPTIMIZER", wanted, was)))
        }
        e => e.into(),
    })?;
    match std::fs::read(dir.join(ANNEALING_STATE)) {
        Ok(bytes) => training.annealing.instance_mut().load_state(&bytes)?,
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| dir.join(ANNEALING_STATE).display().to_string()),
    }
    Ok(training)
}

fn training(config: &Config, mut model: Model, ranks: Option<&Ranks>) -> Result<Training> {
    let (precision, recompute) = (precision(config), config.activation_checkpointing);
    let (own, before) = (config.arithmetic == ArithmeticKind::Difflow, model.arithmetic());
    let (kernels, device_kernels) = (before.kernels && own, before.device_kernels && own);
    model.set_arithmetic(Arithmetic { precision, recompute, kernels, device_kernels, ..before });
    if config.lora_base == PrecisionKind::Bf16 {
        model.round_base()?;
    }
    let (choices, dropout) = (config.choices(), config.dropout_for(model.config()));
    let objective = match config.objective {
        ObjectiveKind::Diffusion => Objective::Diffusion { shift: config.shift },
        ObjectiveKind::Ar => Objective::Ar,
        ObjectiveKind::Block => {
            // Of a model that has not been trained yet, the noiser will say it with the first batch.
            let size = model.config().adapted.as_ref().and_then(|adapted| adapted.blocks).map_or(1, |own| own.size);
            let (context, shift, ar_weight) = (config.context, config.shift, config.ar_weight);
            Objective::Block(Blocks { size, context, shift, ar_weight })
        }
    };
    let normaliser = if choices.per_masked_token { Normaliser::MaskedTokens } else { Normaliser::MaskableTokens };
    let (masked_set, document_attention) = (choices.masked_set, choices.document_attention);
    let options = ObjectiveOptions { objective, masked_set, document_attention, normaliser };
    let learning_rate = config.learning_rate();
    let annealing = annealing::open(config)?;
    let generation = config.generation().map_err(Problems::from)?;
    if !generation.is_empty() {
        model.set_generation(generation)?;
    }
    let mut learner = match ranks.and_then(|ranks| Some((ranks.group()?.clone(), ranks.micro_batches()))) {
        None => Learner::new(model, options, config.optimizer())?,
        Some((group, own)) => {
            let (sharding, reduction) = (config.sharding.into(), config.reduction.into());
            Learner::of_ranks(model, options, config.optimizer(), group, own, sharding, reduction)?
        }
    };
    if ranks.is_some_and(|ranks| ranks.leads() && ranks.group().is_some()) && config.sharding != ShardingKind::None {
        println!("rank 0 keeps {:.0} % of the optimizer's state", 100.0 * learner.state_share());
    }
    learner.set_dropout(dropout, config.seed)?;
    if config.align_weight > 0.0 {
        let dir = Path::new(&config.base_model);
        let base =
            loader(config, ranks)?.base(dir).with_context(|| format!("cannot load BASE_MODEL {}", dir.display()))?;
        learner.align(base, config.align_weight)?;
    }
    balance_experts(config, &mut learner)?;
    if config.ema_decay > 0.0 {
        learner.keep_average(config.ema_decay)?;
    }
    if config.cuda_graphs == CudaGraphs::Auto
        && let Err(reason) = learner.record_updates()
        && learner.model().device() != Device::Cpu
    {
        println!("no CUDA graphs: {reason}");
    }
    Ok(Training { learner, annealing, learning_rate, under_way: None, share: ranks.map_or(Share::WHOLE, Ranks::share) })
}

/// Adds the routers' loss to the objective. Errors ([`Problems`]) if there are no routers.
fn balance_experts(config: &Config, learner: &mut Learner) -> Result<()> {
    let of = learner.model().config();
    if config.router_weight > 0.0 && of.experts.is_none() {
        let allowed = format!("allowed: 0, as {} has no experts", of.architecture);
        return Err(Problems::from(Problem::new("ROUTER_WEIGHT", config.router_weight, allowed)).into());
    }
    Ok(learner.balance_experts(config.router_weight)?)
}

impl Training {
    /// Takes in what is said of the batches.
    ///
    /// # Errors
    /// When the noiser cuts rows into blocks and the objective is another, or the reverse, or examples of conversations would see each other.
    pub fn hear(&mut self, config: &Config, facts: &Facts) -> Result<()> {
        let examples = facts.tokenizer.as_ref().and_then(|tokenizer| tokenizer.examples.as_ref());
        if examples.is_some_and(|examples| examples.several_a_row) && !config.choices().document_attention {
            let allowed = "wanted: true, for a row has several conversations; or PACKING: one for the tokenizer";
            return Err(Problems::from(Problem::new("DOCUMENT_ATTENTION", false, allowed)).into());
        }
        let problem = match (config.objective, &facts.blocks) {
            (ObjectiveKind::Block, Some(blocks)) => return Ok(self.learner.set_block_size(blocks.usual)?),
            (ObjectiveKind::Block, None) => Problem::new(
                "OBJECTIVE",
                "block",
                "the noiser does not cut rows into blocks: give it BLOCK_SIZE, such as `BLOCK_SIZE: 4`",
            ),
            (_, None) => return Ok(()),
            (_, Some(blocks)) => {
                let found = format!("BLOCK_SIZE {} for the noiser", blocks.sizes);
                Problem::new("OBJECTIVE", found, "wanted: OBJECTIVE: block for the trainer, or no BLOCK_SIZE")
            }
        };
        Err(Problems::from(problem).into())
    }

    /// Takes the next micro-batch of optimizer step `step`.
    ///
    /// # Errors
    /// When the batch does not fit the model, or the annealing schedule fails.
    pub fn micro_step(&mut self, config: &Config, step: u64, batch: Noised) -> Result<()> {
        let (ar, batch) = (config.objective == ObjectiveKind::Ar, micro_batch(batch));
        let under_way = match &mut self.under_way {
            Some(under_way) => under_way,
            begun => {
                let attn_mask_ratio = if ar { 0.0 } else { self.annealing.attn_mask_ratio(step)? };
                begun.insert(UnderWay { attn_mask_ratio, micro_batches: 0 })
            }
        };
        let draw = step * config.accumulation + self.share.batch(under_way.micro_batches);
        let ratio = under_way.attn_mask_ratio;
        let pattern = if ar {
            Pattern::Causal
        } else {
            annealing::pattern(&self.annealing, (ratio, step), (config.seed, draw), batch.length)?
        };
        self.learner.start_micro_step(&batch, &pattern)?;
        under_way.micro_batches += 1;
        Ok(())
    }

    /// Ends optimizer step `step`: one update by the micro-batches taken. A device may still be working on it when this returns.
    ///
    /// # Errors
    /// When the device fails.
    pub fn finish(&mut self, step: u64) -> Result<Finished> {
        let attn_mask_ratio = self.under_way.take().map_or(0.0, |under_way| under_way.attn_mask_ratio);
        let learning_rate = self.learning_rate.at(step);
        let update = self.learner.start_update(learning_rate)?;
        Ok(Finished { update, learning_rate, attn_mask_ratio })
    }

    /// What a finished step measured; waits until the device has done it. Steps are read in their order.
    ///
    /// # Errors
    /// When the device fails.
    pub fn report(&mut self, finished: Finished) -> Result<StepReport> {
        let Finished { update, learning_rate, attn_mask_ratio } = finished;
        let applied = self.learner.read(update)?;
        let totals = applied.totals;
        let maskable = totals.maskable.max(1) as f64;
        Ok(StepReport {
            loss: totals.weighted / maskable,
            loss_unweighted: totals.unweighted / totals.positions.max(1) as f64,
            loss_ar: (totals.ar_positions > 0).then(|| totals.ar / totals.ar_positions as f64),
            alignment: (totals.aligned > 0).then(|| totals.distance / totals.aligned as f64),
            router_loss: (totals.balanced > 0).then(|| totals.balance / totals.balanced as f64),
            masked_share: totals.positions as f64 / maskable,
            grad_norm: applied.grad_norm,
            learning_rate,
            attn_mask_ratio,
            tokens: totals.tokens,
            positions_read: totals.positions_read,
            finite: applied.finite,
        })
    }
}

fn micro_batch(noised: Noised) -> MicroBatch {
    let Noised { sequences, masked, weight, blocks, .. } = noised;
    MicroBatch {
        rows: sequences.rows,
        length: sequences.length,
        tokens: sequences.tokens,
        masked,
        maskable: sequences.maskable,
        documents: sequences.documents,
        weights: weight,
        blocks: blocks.into_iter().map(|size| size as usize).collect(),
    }
}
