//! Times decoding of a model directory and prints one JSON line a way of decoding: AR with KV cache, and the diffusion decoders; on a GPU with
//! CUDA graphs and without.
//! A base model gets a mask row first, as in timing the peer.
//!
//! `cargo run --release -p difflow-model --example decode_speed -- DIR [LENGTH] [STEPS] [ROWS] [THRESHOLD] [RUNS] [DEVICE]`

use std::path::PathBuf;
use std::time::Instant;

use difflow_model::{
    Arithmetic, Caching, Canvas, Device, DiffusionDecoding, Generation, Model, ModelError, Prompt, Reveals, Sampling,
    Score,
};

fn main() -> Result<(), ModelError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: f64| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(default);
    let dir = PathBuf::from(words.first().map_or(".", String::as_str));
    let (length, steps, rows) = (number(1, 256.0) as usize, number(2, 64.0) as u32, number(3, 1.0) as usize);
    let (threshold, runs) = (number(4, 0.9), number(5, 3.0) as usize);
    let device = Device::open(words.get(6).map_or("cpu", String::as_str))?;
    let mut model = Model::load(&dir, device)?;
    model.add_mask_token(0)?;
    let shift = model.config().adapted.as_ref().is_none_or(|adapted| adapted.shift);
    let anchor = model.config().bos_token_id.unwrap_or(0);
    let sampling = Sampling { temperature: 0.95, top_p: 0.9, ..Sampling::default() };

    let base = DiffusionDecoding { sampling, shift, ..DiffusionDecoding::default() };
    let random = Reveals::Random { steps };
    let sure = Reveals::Threshold { score: Score::Probability, threshold, window: None };
    let block = Some(32);
    let ways = [
        ("random", DiffusionDecoding { reveals: random, ..base.clone() }),
        (
            "random, blocks, prefix",
            DiffusionDecoding { reveals: random, block, cache: Caching::Prefix, ..base.clone() },
        ),
        ("random, blocks, dual", DiffusionDecoding { reveals: random, block, cache: Caching::Dual, ..base.clone() }),
        ("threshold", DiffusionDecoding { reveals: sure, ..base.clone() }),
        ("threshold, blocks, dual", DiffusionDecoding { reveals: sure, block, cache: Caching::Dual, ..base.clone() }),
    ];
    let graphs = std::cell::Cell::new(device != Device::Cpu);
    let report = |way: &str, nfe: f64, mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        println!(
            "{{\"way\": \"{way}\", \"graphs\": {}, \"tokens_per_s\": {:.1}, \"seconds\": {median:.4}, \"length\": {length}, \"rows\": {rows}, \"nfe\": {nfe:.1}}}",
            graphs.get(),
            (rows * length) as f64 / median
        );
    };
    let again = if graphs.get() { [true, false].as_slice() } else { &[false] };
    for &recorded in again {
        graphs.set(recorded);
        model.set_arithmetic(Arithmetic { fixed_shapes: recorded, ..model.arithmetic() });
        for (way, options) in &ways {
            let canvases: Vec<Canvas> =
                (0..rows as u64).map(|key| Canvas::unconditional(anchor, length, key)).collect();
            let (mut seconds, mut nfe) = (Vec::new(), 0.0);
            for run in 0..=runs {
                let start = Instant::now();
                let decoded = model.decode(&canvases, options)?;
                // The first run warms up.
                if run > 0 {
                    seconds.push(start.elapsed().as_secs_f64());
                }
                nfe = decoded.iter().map(|one| f64::from(one.nfe)).sum::<f64>() / rows as f64;
            }
            report(way, nfe, seconds);
        }
        let prompts: Vec<Prompt> = (0..rows as u64).map(|key| Prompt { tokens: vec![anchor], key }).collect();
        let options = Generation { max_new_tokens: length, sampling, seed: 0, stop: Vec::new() };
        let mut seconds = Vec::new();
        for run in 0..=runs {
            let start = Instant::now();
            model.generate(&prompts, &options)?;
            if run > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        report("ar", length as f64, seconds);
    }
    Ok(())
}
