//! What a forward over several new positions costs against one over a single one, both with a KV cache: what decides
//! whether checking drafts pays. Prints one JSON line a number of positions.
//!
//! `cargo run --release -p difflow-model --example forward_price -- DIR [LENGTH] [RUNS]`

use std::path::PathBuf;
use std::time::Instant;

use difflow_model::{
    Budget, Caching, Canvas, Context, Device, DiffusionDecoding, Generation, Model, ModelError, Prompt, Reveals,
    Sampling, Score,
};

fn main() -> Result<(), ModelError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(default);
    let dir = PathBuf::from(words.first().map_or(".", String::as_str));
    let (length, runs) = (number(1, 192), number(2, 5));
    let mut model = Model::load(&dir, Device::Cpu)?;
    model.add_mask_token(0)?;
    let anchor = model.config().bos_token_id.unwrap_or(0);
    let median = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    let time = |work: &dyn Fn() -> Result<usize, ModelError>| -> Result<f64, ModelError> {
        work()?;
        let mut seconds = Vec::new();
        for _ in 0..runs {
            let start = Instant::now();
            let forwards = work()?;
            seconds.push(start.elapsed().as_secs_f64() / forwards as f64);
        }
        Ok(median(seconds))
    };
    let sampling = Sampling::GREEDY;
    let options = Generation { max_new_tokens: length, sampling, seed: 0, stop: Vec::new() };
    let one = time(&|| {
        model.generate(&[Prompt { tokens: vec![anchor], key: 0 }], &options)?;
        Ok(length)
    })?;
    println!("{{\"positions\": 1, \"seconds\": {one:.6}, \"price\": 1.0}}");
    for size in [1, 2, 4, 8, 16, 32] {
        // A block at once: each forward reads the block before, clean, and its own masks.
        let options = DiffusionDecoding {
            reveals: Reveals::Confidence { score: Score::Probability, budget: Budget::PerStep(size as u32) },
            sampling,
            shift: false,
            block: Some(size),
            context: Some(Context::Causal),
            cache: Caching::Prefix,
            ..DiffusionDecoding::default()
        };
        let seconds = time(&|| {
            let decoded = model.decode(&[Canvas::unconditional(anchor, length - 1, 0)], &options)?;
            Ok(decoded[0].nfe as usize)
        })?;
        let (positions, price) = (2 * size, seconds / one);
        println!("{{\"positions\": {positions}, \"seconds\": {seconds:.6}, \"price\": {price:.2}}}");
    }
    Ok(())
}
