//! What a schedule costs a training step: built in, as a Rust plug-in and as a C plug-in, in microseconds and as a share of a step of the
//! default dataflow, which is measured here as well. Ends with 1 when a plug-in costs more than 1 % of a step.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use difflow_model::{AdamW, Device, Learner, MicroBatch, Model, ModelError, Objective, ObjectiveOptions, Pattern};
use difflow_plugin_host::{AnnealingSchedule, NoiseSchedule, PluginError};

/// Rows of a micro-batch and tokens of a row, as in the default dataflow; one micro-batch is a step.
const ROWS: usize = 16;
const LENGTH: usize = 192;
/// Threads of the trainer, as by default.
const THREADS: usize = 2;
/// What a plug-in may cost, as a share of a step.
const ALLOWED: f64 = 0.01;
const ALLOWED_IN_PYTHON: f64 = 0.02;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The least of several means, in seconds.
fn seconds(times: u32, mut work: impl FnMut() -> Result<(), PluginError>) -> Result<f64, PluginError> {
    let mut least = f64::INFINITY;
    for _ in 0..9 {
        let begin = Instant::now();
        for _ in 0..times {
            work()?;
        }
        least = least.min(begin.elapsed().as_secs_f64() / f64::from(times));
    }
    Ok(least)
}

/// Seconds of a training step of the default base model: the least of some.
fn step() -> Result<f64, ModelError> {
    difflow_model::set_num_threads(THREADS);
    let mut model = Model::load(&checkout().join("data/tiny/model"), Device::Cpu)?;
    let mask = model.add_mask_token(0)?;
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let mut learner = Learner::new(model, options, AdamW::default())?;
    let tokens = (0..ROWS * LENGTH).map(|at| (at as u32).wrapping_mul(2_654_435_761) % mask).collect();
    let mut batch = MicroBatch::clean(ROWS, LENGTH, tokens);
    batch.masked = batch.maskable.iter().enumerate().map(|(at, &maskable)| maskable && at % 2 == 0).collect();
    let mut least = f64::INFINITY;
    for draw in 0..8 {
        let begin = Instant::now();
        learner.micro_step(&batch, &Pattern::Annealed { ratio: 0.5, seed: 0, draw })?;
        learner.apply(1e-4)?;
        least = least.min(begin.elapsed().as_secs_f64());
    }
    Ok(least)
}

fn unwritten(source: std::io::Error) -> ModelError {
    ModelError::Write { path: std::env::temp_dir(), source }
}

fn main() -> Result<ExitCode, ModelError> {
    let plugin = |name: &str| checkout().join("bin/plugins").join(name).display().to_string();
    let step = step()?;
    println!("a training step, {ROWS} x {LENGTH} tokens, {THREADS} threads: {:.1} ms", step * 1e3);
    println!("{:<46} {:>14} {:>16}", "what a step asks of a schedule", "microseconds", "share of a step");
    let mut within = true;
    let mut line = |what: &str, cost: f64, allowed: Option<f64>| {
        println!("{what:<46} {:>14.2} {:>15.5}%", cost * 1e6, 100.0 * cost / step);
        within &= allowed.is_none_or(|allowed| cost / step <= allowed);
    };
    let folder = tempfile::tempdir().map_err(unwritten)?;
    let python = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).map_err(unwritten)?;
        Ok::<_, ModelError>(path.display().to_string())
    };
    let noise = python("noise.py", "import math\n\ndef alpha(t):\n    return math.cos(math.pi / 2 * t) ** 2\n")?;
    let annealing = python("annealing.py", "def attn_mask_ratio(step):\n    return min(1.0, step / 150)\n")?;
    let t: Vec<f64> = (1..=ROWS).map(|row| row as f64 / ROWS as f64).collect();
    for (name, value, allowed) in [
        ("built in: cosine", "builtin:cosine".to_owned(), None),
        ("Rust plug-in: cosine-noise", plugin("libcosine_noise.so"), Some(ALLOWED)),
        ("C plug-in: quadratic-noise-c", plugin("quadratic_noise.so"), Some(ALLOWED)),
        ("Python file without a derivative", noise, Some(ALLOWED_IN_PYTHON)),
    ] {
        let schedule = NoiseSchedule::open(&value, "{}")?;
        let cost = seconds(20_000, || {
            black_box((schedule.alpha(black_box(&t))?, schedule.weight(black_box(&t))?));
            Ok(())
        })?;
        line(&format!("alpha and weight, {name}"), cost, allowed);
    }
    for (name, value, allowed) in [
        ("built in: step", "builtin:step".to_owned(), None),
        ("Rust plug-in: step-annealing", plugin("libstep_annealing.so"), Some(ALLOWED)),
        ("Python file", annealing, Some(ALLOWED_IN_PYTHON)),
    ] {
        let schedule = AnnealingSchedule::open(&value, "{}", 150)?;
        let cost = seconds(50_000, || Ok(_ = black_box(schedule.attn_mask_ratio(black_box(70))?)))?;
        line(&format!("attn_mask_ratio, {name}"), cost, allowed);
    }
    let band = AnnealingSchedule::open("band", "{}", 150)?;
    let cost = seconds(200, || Ok(_ = black_box(band.attn_mask(70, 1, LENGTH)?)))?;
    line(&format!("attn_mask {LENGTH} x {LENGTH}, built in: band"), cost, None);
    println!("allowed: {}% for a library, {}% in Python", 100.0 * ALLOWED, 100.0 * ALLOWED_IN_PYTHON);
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
