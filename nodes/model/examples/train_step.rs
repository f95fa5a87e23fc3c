//! Times training steps of a model directory (or of random weights from its config.json) on random tokens, and prints one
//! JSON line. Same work as a trainer's step: noise, annealed attention, loss, gradients, clipping, update.
//!
//! `cargo run --release -p difflow-model --example train_step -- DIR [options]`; `--help` lists them.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use difflow_model::{
    AdapterConfig, Applied, Arithmetic, Blocks, Context, Device, DeviceSettings, Family, Learner, Memory, MicroBatch,
    Model, ModelError, Muon, Objective, ObjectiveOptions, Optimizer, Pattern, Precision, Profile, Targets,
};

/// Times training steps and prints one JSON line.
#[derive(Parser)]
struct Arguments {
    /// Hugging Face directory; without model.safetensors in it, weights are random.
    dir: PathBuf,
    /// Sequences of a step.
    #[arg(long, default_value_t = 16)]
    rows: usize,
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 256)]
    length: usize,
    /// Steps that are timed, after a warm-up of 3.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Arithmetic of matrix products and attention.
    #[arg(long, value_enum, default_value_t = Dtype::Fp32)]
    dtype: Dtype,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Share of the future that attention sees; 0 is causal, 1 full.
    #[arg(long, default_value_t = 0.5)]
    ratio: f64,
    /// After each step, one of block diffusion on the same rows with blocks of so many positions, and what it costs more.
    #[arg(long)]
    block: Option<usize>,
    /// With --block: weight of the AR loss of the clean text.
    #[arg(long, default_value_t = 0.0)]
    ar_weight: f64,
    /// Documents of a row, of equal length; they do not see each other.
    #[arg(long, default_value_t = 1)]
    documents: usize,
    /// Torch operations instead of difflow's own kernels.
    #[arg(long)]
    plain: bool,
    /// The logits of all positions with loss at once, instead of in chunks.
    #[arg(long)]
    unchunked: bool,
    /// Blocks are computed again in the backward pass instead of keeping their activations.
    #[arg(long)]
    checkpointing: bool,
    /// Updates the matrices of the blocks by Muon.
    #[arg(long)]
    muon: bool,
    /// Trains an adapter of this rank for every matrix of the blocks (LoRA) and nothing else; the mask token is then the last of the
    /// vocabulary.
    #[arg(long)]
    lora: Option<usize>,
    /// Only kernels that give the same bits each time, and the sha256 of the weights at the end.
    #[arg(long)]
    deterministic: bool,
    /// Records updates as CUDA graphs.
    #[arg(long)]
    graphs: bool,
    /// Records three steps after the warm-up with torch's profiler, as a trace in this file; they are not timed.
    #[arg(long)]
    profile: Option<PathBuf>,
    /// Before timing, write the model as it is used here (without the mask token) to this existing folder.
    #[arg(long)]
    write: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Dtype {
    Fp32,
    Bf16,
}

/// Steps before the ones that are timed.
const WARM_UP: usize = 3;

fn main() -> Result<(), ModelError> {
    let a = Arguments::parse();
    DeviceSettings { deterministic: a.deterministic, ..DeviceSettings::default() }.set()?;
    let device = Device::open(&a.device)?;
    let mut model = if a.dir.join("model.safetensors").exists() {
        Model::load(&a.dir, device)?
    } else {
        Model::initialise(&a.dir, 0, device)?
    };
    if let Some(dir) = &a.write {
        model.save(dir)?;
    }
    let precision = if a.dtype == Dtype::Bf16 { Precision::Bf16 } else { Precision::Fp32 };
    let (kernels, device_kernels, recompute) = (!a.plain, !a.plain, a.checkpointing);
    model.set_arithmetic(Arithmetic { precision, kernels, device_kernels, recompute, ..model.arithmetic() });
    if a.unchunked {
        model.set_logit_chunk(usize::MAX);
    }
    match a.lora {
        None => drop(model.add_mask_token(0)?),
        Some(rank) => {
            model.set_mask_token(model.config().vocab_size as u32 - 1)?;
            let fan_in_fan_out = model.config().family == Family::Gpt2;
            let adapter = AdapterConfig::new(&a.dir, rank, rank as f64, Targets::parse("all-linear"));
            model.add_adapter(&AdapterConfig { fan_in_fan_out, ..adapter }, 0)?;
        }
    }
    let vocabulary = model.config().vocab_size as u64 - 1;
    let context = Context::Causal;
    let objective = match a.block {
        None => Objective::Diffusion { shift: true },
        Some(size) => Objective::Block(Blocks { size, context, shift: false, ar_weight: a.ar_weight }),
    };
    let optimizer = Optimizer { muon: a.muon.then(Muon::default), ..Optimizer::default() };
    let mut learner = Learner::new(model, ObjectiveOptions::recommended(objective), optimizer)?;

    if a.graphs {
        learner.record_updates().map_err(ModelError::Torch)?;
    }

    let (recorded, steps) = (if a.profile.is_some() { 3 } else { 0 }, a.steps);
    let batches: Vec<MicroBatch> =
        (0..steps + WARM_UP + recorded).map(|step| noised_batch(&a, step, vocabulary)).collect();
    let (mut seconds, mut updates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut all: Vec<Applied> = Vec::new();
    let mut unread = None;
    let mut profile = None;
    for (step, mut batch) in batches.into_iter().enumerate() {
        if step == WARM_UP && a.profile.is_some() {
            profile = Some(Profile::start()?);
        }
        let pattern = Pattern::Annealed { ratio: a.ratio, seed: 0, draw: step as u64 };
        // As in training: what a step measured is read when the next one has been given to the device.
        let mut timed = |batch: &MicroBatch| -> Result<(f64, f64), ModelError> {
            let start = Instant::now();
            learner.start_micro_step(batch, &pattern)?;
            let micro = start.elapsed().as_secs_f64();
            let begun = learner.start_update(1e-4)?;
            let update = start.elapsed().as_secs_f64() - micro;
            // Two kinds of step in turn are told apart only if each is waited for.
            let due = if a.block.is_some() { Some(begun) } else { unread.replace(begun) };
            if let Some(due) = due {
                all.push(learner.read(due)?);
            }
            Ok((start.elapsed().as_secs_f64(), update))
        };
        batch.blocks = a.block.map_or_else(Vec::new, |_| vec![a.length; a.rows]);
        let (whole, update) = timed(&batch)?;
        seconds.push(whole);
        updates.push(update);
        if let Some(size) = a.block {
            batch.blocks = vec![size; a.rows];
            ratios.push(timed(&batch)?.0 / whole);
        }
        if step == WARM_UP + 2
            && let (Some(profile), Some(file)) = (profile.take(), &a.profile)
        {
            profile.stop(file)?;
        }
    }
    if let Some(last) = unread.take() {
        all.push(learner.read(last)?);
    }
    let weights_sha256 = if a.deterministic { Some(weights(&learner)?) } else { None };
    let (config, parameters) = (learner.model().config(), learner.model().parameter_count());
    let (rows, length) = (a.rows as u64, a.length as u64 * if a.block.is_some() { 2 } else { 1 });
    let estimated = Memory::of_device_training(config, parameters, &optimizer, rows, length, a.checkpointing).total();
    let loss = |applied: &Applied| applied.totals.weighted / applied.totals.maskable as f64;
    // The first steps allocate and warm up.
    let mut seconds = seconds.split_off(WARM_UP + recorded);
    let mut ratios = ratios.split_off((WARM_UP + recorded).min(ratios.len()));
    ratios.sort_by(f64::total_cmp);
    let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
    seconds.sort_by(f64::total_cmp);
    let mut updates = updates.split_off(WARM_UP + recorded);
    updates.sort_by(f64::total_cmp);
    let line = serde_json::json!({
        "tokens_per_s": ((a.rows * a.length) as f64 / mean).round(),
        "mean_step_s": mean,
        "median_step_s": seconds[seconds.len() / 2],
        "block_step_ratio": ratios.get(ratios.len() / 2),
        "median_update_s": updates[updates.len() / 2],
        "documents": a.documents,
        "optimizer": if a.muon { "muon" } else { "adamw" },
        "lora": a.lora,
        "rows": a.rows,
        "length": a.length,
        "parameters": learner.model().parameter_count(),
        "dtype": if a.dtype == Dtype::Bf16 { "bf16" } else { "fp32" },
        "kernels": if a.plain { "torch" } else { "difflow" },
        "device": device.to_string(),
        "threads": difflow_model::num_threads(),
        "peak_mib": peak_mib(),
        "graphs": learner.graph_use().map(|used| format!("{used:?}")),
        "weights_sha256": weights_sha256,
        "estimated_device_mib": estimated >> 20,
        "peak_device_mib": device.peak_memory()?.map(|bytes| bytes >> 20),
        "loss": all.last().map(loss),
        "first_loss": all.first().map(loss),
        "first_grad_norm": all.first().map(|applied| applied.grad_norm),
    });
    println!("{line}");
    Ok(())
}

/// sha256 of the model's file.
fn weights(learner: &Learner) -> Result<String, ModelError> {
    let dir = std::env::temp_dir().join(format!("train-step-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| ModelError::Torch(e.to_string()))?;
    let saved = learner.model().save(&dir)?;
    let _ = std::fs::remove_dir_all(&dir);
    Ok(saved.iter().find(|file| file.name == "model.safetensors").map_or_else(String::new, |file| file.sha256.clone()))
}

/// The most memory that the process has held, where the system says it (Linux).
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().split(' ').next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

/// Random tokens, t spread evenly over the rows as in training, weight 1/t. A counter hashed to 64 bits: what is timed does
/// not depend on a text.
fn noised_batch(a: &Arguments, step: usize, vocabulary: u64) -> MicroBatch {
    let hash = |n: u64| {
        let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
    };
    let n = a.rows * a.length;
    let at = |i: usize| (step * n + i) as u64;
    let mut batch = MicroBatch::clean(a.rows, a.length, (0..n).map(|i| (hash(at(i)) % vocabulary) as u32).collect());
    let document = a.length.div_ceil(a.documents.max(1));
    batch.documents.iter_mut().enumerate().for_each(|(at, id)| *id = (at % a.length / document) as u32);
    for row in 0..a.rows {
        let t = (row as f64 + 0.5) / a.rows as f64;
        batch.weights[row] = 1.0 / t;
        for i in row * a.length..(row + 1) * a.length {
            batch.masked[i] = batch.maskable[i] && (hash(at(i) ^ 0x00ab_cdef) as f64) < t * 2f64.powi(32);
        }
    }
    batch
}
