//! Times training steps of a model directory (or of random weights from its config.json) on random tokens, and prints one
//! JSON line. Same work as a trainer's step: noise, annealed attention, loss, gradients, clipping, update.
//!
//! `cargo run --release -p difflow-model --example train_step -- DIR [ROWS] [LENGTH] [STEPS] [fp32|bf16] [DEVICE] [RATIO]`

use std::path::PathBuf;
use std::time::Instant;

use difflow_model::{
    AdamW, Device, Learner, MicroBatch, Model, ModelError, Normaliser, Objective, ObjectiveOptions, Pattern, Precision,
};

fn main() -> Result<(), ModelError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(default);
    let dir = PathBuf::from(words.first().map_or(".", String::as_str));
    let (rows, length, steps) = (number(1, 16), number(2, 256), number(3, 20));
    let bf16 = words.get(4).is_some_and(|word| word == "bf16");
    let device = Device::open(words.get(5).map_or("cpu", String::as_str))?;
    let ratio: f64 = words.get(6).and_then(|word| word.parse().ok()).unwrap_or(0.5);

    let mut model = match dir.join("model.safetensors").exists() {
        true => Model::load(&dir, device)?,
        false => Model::initialise(&dir, 0, device)?,
    };
    model.set_precision(if bf16 { Precision::Bf16 } else { Precision::Fp32 });
    model.add_mask_token(0)?;
    let vocabulary = model.config().vocab_size as u64 - 1;
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let mut learner = Learner::new(model, options, AdamW::default())?;

    // A counter hashed to 64 bits: what is timed does not depend on the text.
    let hash = |n: u64| {
        let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
    };
    let batch_of = |step: usize| {
        let n = rows * length;
        let at = |i: usize| (step * n + i) as u64;
        let mut batch = MicroBatch::clean(rows, length, (0..n).map(|i| (hash(at(i)) % vocabulary) as u32).collect());
        for row in 0..rows {
            let t = (row as f64 + 0.5) / rows as f64;
            batch.weights[row] = 1.0 / t;
            for i in row * length..(row + 1) * length {
                batch.masked[i] = batch.maskable[i] && (hash(at(i) ^ 0xabcdef) as f64) < t * 2f64.powi(32);
            }
        }
        batch
    };
    let mut seconds = Vec::new();
    let mut last = 0.0;
    for step in 0..steps + 3 {
        let batch = batch_of(step);
        let pattern = Pattern::Annealed { ratio, seed: 0, draw: step as u64 };
        let start = Instant::now();
        let sums = learner.micro_step(&batch, &pattern, Normaliser::Global(batch.maskable_tokens() as f64))?;
        learner.apply(1e-4)?;
        seconds.push(start.elapsed().as_secs_f64());
        last = sums.weighted / sums.maskable as f64;
    }
    // The first steps allocate and warm up.
    let mut seconds = seconds.split_off(3);
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!(
        "{{\"tokens_per_s\": {:.0}, \"median_step_s\": {median:.4}, \"rows\": {rows}, \"length\": {length}, \"parameters\": {}, \
         \"dtype\": \"{}\", \"device\": \"{device}\", \"threads\": {}, \"loss\": {last:.4}}}",
        (rows * length) as f64 / median,
        learner.model().parameter_count(),
        if bf16 { "bf16" } else { "fp32" },
        difflow_model::num_threads(),
    );
    Ok(())
}
