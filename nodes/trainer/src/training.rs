//! The model at work: what one optimizer step does with its micro-batches.

use std::io::ErrorKind;
use std::path::Path;

use difflow_model::{
    AdamW, Device, Learner, LearningRate, Loader, MicroBatch, Model, Normaliser, Objective, ObjectiveOptions, Pattern,
    Precision, TorchPlugin,
};
use difflow_node_kit::{Problem, Problems};
use difflow_plugin_host::{AnnealingSchedule, ModelRecipe};
use difflow_schema::Noised;
use eyre::{Context, Result, eyre};

use crate::annealing;
use crate::config::{Config, ObjectiveKind, PrecisionKind};
use crate::preset::MaskToken;
use crate::save::ANNEALING_STATE;

/// A learner and how it is led through the steps.
pub struct Training {
    /// The model and its optimizer.
    pub learner: Learner,
    /// How attention goes from causal to full.
    pub annealing: AnnealingSchedule,
    learning_rate: LearningRate,
}

/// What one optimizer step measured.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Weighted loss per maskable token (AR: per target), nats.
    pub loss: f64,
    /// Mean cross-entropy of the positions that carried loss, nats.
    pub loss_unweighted: f64,
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
    /// False when loss or gradient was not a number and the weights stayed as they were.
    pub finite: bool,
}

/// Loads (or initialises) the base model, with a mask token for diffusion, ready for step 0.
pub fn begin(config: &Config) -> Result<Training> {
    let dir = Path::new(&config.base_model);
    let loader = loader(config)?;
    let mut model = match config.from_scratch {
        true => Model::initialise(dir, config.seed, loader.device),
        false => loader.base(dir),
    }
    .with_context(|| format!("cannot load BASE_MODEL {}", dir.display()))?;
    if config.objective == ObjectiveKind::Diffusion {
        match config.mask_token_for(model.config()) {
            Some(MaskToken::Added) => model.add_mask_token(config.seed)?,
            Some(MaskToken::Existing(id)) => model.use_mask_token(id)?,
            None => return Err(eyre!("MASK_TOKEN: found `{}`, wanted preset, added or a token id", config.mask_token)),
        };
    }
    training(config, model)
}

/// How the base model and the checkpoints are read.
fn loader(config: &Config) -> Result<Loader> {
    let device = Device::open(&config.device)?;
    let recipe = ModelRecipe::named(&config.model_recipe, &config.model_recipe_config)
        .map_err(|e| Problems::from(Problem::new(e.key("MODEL_RECIPE"), &config.model_recipe, e.to_string())))?;
    let torch_model = TorchPlugin::named(&config.torch_model, &config.torch_model_config)
        .map_err(|e| Problems::from(Problem::new(e.key("TORCH_MODEL"), &config.torch_model, e.to_string())))?;
    Ok(Loader { device, recipe, torch_model, precision: precision(config) })
}

fn precision(config: &Config) -> Precision {
    match config.precision {
        PrecisionKind::Fp32 => Precision::Fp32,
        PrecisionKind::Bf16 => Precision::Bf16,
    }
}

/// Loads the checkpoint in `dir`.
pub fn resume(config: &Config, dir: &Path) -> Result<Training> {
    let model = loader(config)?.checkpoint(dir)?;
    let mut training = training(config, model)?;
    training.learner.load_optimizer(dir)?;
    match std::fs::read(dir.join(ANNEALING_STATE)) {
        Ok(bytes) => training.annealing.instance_mut().load_state(&bytes)?,
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| dir.join(ANNEALING_STATE).display().to_string()),
    }
    Ok(training)
}

fn training(config: &Config, mut model: Model) -> Result<Training> {
    model.set_precision(precision(config));
    model.set_activation_checkpointing(config.activation_checkpointing);
    let (choices, dropout) = (config.choices(), config.dropout_for(model.config()));
    let objective = match config.objective {
        ObjectiveKind::Diffusion => Objective::Diffusion { shift: config.shift },
        ObjectiveKind::Ar => Objective::Ar,
    };
    let (masked_set, document_attention) = (choices.masked_set, choices.document_attention);
    let options = ObjectiveOptions { objective, masked_set, document_attention };
    let optimizer = AdamW {
        beta1: config.beta1,
        beta2: config.beta2,
        weight_decay: config.weight_decay,
        clip: (config.clip > 0.0).then_some(config.clip),
        ..AdamW::default()
    };
    let learning_rate = config.learning_rate();
    let annealing = annealing::open(config)?;
    let mut learner = Learner::new(model, options, optimizer)?;
    learner.set_dropout(dropout, config.seed)?;
    if config.ema_decay > 0.0 {
        learner.keep_average(config.ema_decay)?;
    }
    Ok(Training { learner, annealing, learning_rate })
}

impl Training {
    /// One optimizer step over the micro-batches of its global batch.
    pub fn step(&mut self, config: &Config, step: u64, batches: Vec<Noised>) -> Result<StepReport> {
        let batches: Vec<MicroBatch> = batches.into_iter().map(micro_batch).collect();
        let ar = config.objective == ObjectiveKind::Ar;
        let attn_mask_ratio = if ar { 0.0 } else { self.annealing.attn_mask_ratio(step)? };
        let maskable: u64 = batches.iter().map(MicroBatch::maskable_tokens).sum();
        let normaliser = match config.choices().per_masked_token {
            false => Normaliser::Global(maskable.max(1) as f64),
            true => Normaliser::MaskedTokens { micro_batches: batches.len() as u32 },
        };
        let (mut weighted, mut unweighted, mut positions) = (0.0, 0.0, 0);
        for (micro, batch) in batches.iter().enumerate() {
            let draw = step * config.accumulation + micro as u64;
            let pattern = match () {
                () if ar => Pattern::Causal,
                () => annealing::pattern(&self.annealing, (attn_mask_ratio, step), (config.seed, draw), batch.length)?,
            };
            let sums = self.learner.micro_step(batch, &pattern, normaliser)?;
            weighted += sums.weighted;
            unweighted += sums.unweighted;
            positions += sums.positions;
        }
        let learning_rate = self.learning_rate.at(step);
        let applied = self.learner.apply(learning_rate)?;
        let tokens =
            batches.iter().flat_map(|batch| &batch.documents).filter(|&&d| d != difflow_model::PADDING).count();
        Ok(StepReport {
            loss: weighted / maskable.max(1) as f64,
            loss_unweighted: unweighted / positions.max(1) as f64,
            masked_share: positions as f64 / maskable.max(1) as f64,
            grad_norm: applied.grad_norm,
            learning_rate,
            attn_mask_ratio,
            tokens: tokens as u64,
            finite: applied.finite,
        })
    }
}

fn micro_batch(noised: Noised) -> MicroBatch {
    let Noised { sequences, masked, weight, .. } = noised;
    MicroBatch {
        rows: sequences.rows,
        length: sequences.length,
        tokens: sequences.tokens,
        masked,
        maskable: sequences.maskable,
        documents: sequences.documents,
        weights: weight,
    }
}
