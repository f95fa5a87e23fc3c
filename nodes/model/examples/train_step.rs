//! Times training steps of a model directory (or of random weights from its config.json) on random tokens, and prints one
//! JSON line. Same work as a trainer's step: noise, annealed attention, loss, gradients, clipping, update.
//!
//! `cargo run --release -p difflow-model --example train_step -- DIR [options]`; `--help` lists them.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use difflow_model::{
    Arithmetic, Blocks, Context, Device, Learner, MicroBatch, Model, ModelError, Muon, Objective, ObjectiveOptions,
    Optimizer, Pattern, Precision,
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
    /// Torch operations instead of difflow's own CPU kernels.
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
    /// Before timing, write the model as it is used here (without the mask token) to this existing folder.
    #[arg(long)]
    write: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Dtype {
    Fp32,
    Bf16,
}

fn main() -> Result<(), ModelError> {
    let a = Arguments::parse();
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
    let (kernels, recompute) = (!a.plain, a.checkpointing);
    model.set_arithmetic(Arithmetic { precision, kernels, recompute, ..model.arithmetic() });
    if a.unchunked {
        model.set_logit_chunk(usize::MAX);
    }
    model.add_mask_token(0)?;
    let vocabulary = model.config().vocab_size as u64 - 1;
    let context = Context::Causal;
    let objective = match a.block {
        None => Objective::Diffusion { shift: true },
        Some(size) => Objective::Block(Blocks { size, context, shift: false, ar_weight: a.ar_weight }),
    };
    let optimizer = Optimizer { muon: a.muon.then(Muon::default), ..Optimizer::default() };
    let mut learner = Learner::new(model, ObjectiveOptions::recommended(objective), optimizer)?;

    let (mut seconds, mut updates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = 0.0;
    for step in 0..a.steps + 3 {
        let mut batch = noised_batch(&a, step, vocabulary);
        let pattern = Pattern::Annealed { ratio: a.ratio, seed: 0, draw: step as u64 };
        let mut timed = |batch: &MicroBatch| -> Result<(f64, f64), ModelError> {
            let start = Instant::now();
            let sums = learner.micro_step(batch, &pattern)?;
            let micro = start.elapsed().as_secs_f64();
            // Reads the gradient's norm, so on a GPU the step is over when it returns.
            learner.apply(1e-4)?;
            last = sums.weighted / sums.maskable as f64;
            Ok((start.elapsed().as_secs_f64(), start.elapsed().as_secs_f64() - micro))
        };
        batch.blocks = a.block.map_or_else(Vec::new, |_| vec![a.length; a.rows]);
        let (whole, update) = timed(&batch)?;
        seconds.push(whole);
        updates.push(update);
        if let Some(size) = a.block {
            batch.blocks = vec![size; a.rows];
            ratios.push(timed(&batch)?.0 / whole);
        }
    }
    // The first steps allocate and warm up.
    let mut seconds = seconds.split_off(3);
    let mut ratios = ratios.split_off(3.min(ratios.len()));
    ratios.sort_by(f64::total_cmp);
    let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
    seconds.sort_by(f64::total_cmp);
    let mut updates = updates.split_off(3);
    updates.sort_by(f64::total_cmp);
    let line = serde_json::json!({
        "tokens_per_s": ((a.rows * a.length) as f64 / mean).round(),
        "mean_step_s": mean,
        "median_step_s": seconds[seconds.len() / 2],
        "block_step_ratio": ratios.get(ratios.len() / 2),
        "median_update_s": updates[updates.len() / 2],
        "optimizer": if a.muon { "muon" } else { "adamw" },
        "rows": a.rows,
        "length": a.length,
        "parameters": learner.model().parameter_count(),
        "dtype": if a.dtype == Dtype::Bf16 { "bf16" } else { "fp32" },
        "kernels": if a.plain { "torch" } else { "difflow" },
        "device": device.to_string(),
        "threads": difflow_model::num_threads(),
        "peak_mib": peak_mib(),
        "loss": last,
    });
    println!("{line}");
    Ok(())
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
    for row in 0..a.rows {
        let t = (row as f64 + 0.5) / a.rows as f64;
        batch.weights[row] = 1.0 / t;
        for i in row * a.length..(row + 1) * a.length {
            batch.masked[i] = batch.maskable[i] && (hash(at(i) ^ 0x00ab_cdef) as f64) < t * 2f64.powi(32);
        }
    }
    batch
}
