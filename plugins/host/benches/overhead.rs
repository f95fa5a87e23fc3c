//! What a schedule costs a micro-batch: built in, as a Rust plug-in and as a C plug-in. A training step of the default dataflow takes
//! tenths of a second on two cores; its own `step_s` is what these numbers are to be compared with.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use difflow_plugin_host::{AnnealingSchedule, NoiseSchedule, PluginError};

/// Rows of a micro-batch and tokens of a row, as in the default dataflow.
const ROWS: usize = 16;
const LENGTH: usize = 256;

/// The least of several means, in microseconds.
fn microseconds(times: u32, work: impl Fn() -> Result<(), PluginError>) -> Result<f64, PluginError> {
    let mut least = f64::INFINITY;
    for _ in 0..9 {
        let begin = Instant::now();
        for _ in 0..times {
            work()?;
        }
        least = least.min(begin.elapsed().as_secs_f64() * 1e6 / f64::from(times));
    }
    Ok(least)
}

fn main() -> Result<(), PluginError> {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bin/plugins");
    let plugin = |name: &str| plugins.join(name).display().to_string();
    let t: Vec<f64> = (1..=ROWS).map(|row| row as f64 / ROWS as f64).collect();
    println!("alpha and weight of {ROWS} rows, microseconds a micro-batch");
    for (name, value) in [
        ("built in, cosine", "builtin:cosine".to_owned()),
        ("Rust plug-in, cosine-noise", plugin("libcosine_noise.so")),
        ("C plug-in, quadratic-noise-c", plugin("quadratic_noise.so")),
    ] {
        let schedule = NoiseSchedule::open(&value, "{}")?;
        let cost = microseconds(20_000, || {
            black_box((schedule.alpha(black_box(&t))?, schedule.weight(black_box(&t))?));
            Ok(())
        })?;
        println!("  {name:<30} {cost:8.2}");
    }
    println!("attn_mask_ratio, microseconds a step");
    for (name, value) in [
        ("built in, step", "builtin:step".to_owned()),
        ("Rust plug-in, step-annealing", plugin("libstep_annealing.so")),
    ] {
        let schedule = AnnealingSchedule::open(&value, "{}", 150)?;
        let cost = microseconds(50_000, || Ok(_ = black_box(schedule.attn_mask_ratio(black_box(70))?)))?;
        println!("  {name:<30} {cost:8.2}");
    }
    let band = AnnealingSchedule::open("band", "{}", 150)?;
    let cost = microseconds(200, || Ok(_ = black_box(band.attn_mask(70, 1, LENGTH)?)))?;
    println!("attn_mask of {LENGTH} x {LENGTH}, microseconds a forward\n  {:<30} {cost:8.2}", "built in, band");
    Ok(())
}
