//! Tests of annealing schedules.

use super::{Stop, Test, ensure, on_eight_threads};
use crate::annealing::AnnealingSchedule;
use crate::error::PluginError;
use crate::find::Found;

pub const TESTS: &[Test] = &[
    Test { name: "ratio", what: "the ratio is in [0, 1] at every step", run: ratio },
    Test { name: "reaches-full", what: "the ratio reaches 1 and stays there", run: reaches_full },
    Test { name: "causal-open", what: "every pattern is of 0 and 1, with the causal part open", run: causal_open },
    Test { name: "same-pattern", what: "the same step and seed give the same pattern", run: same_pattern },
    Test { name: "threads", what: "the same from eight threads", run: threads },
];

const STEPS: u64 = 100;
const LENGTHS: [usize; 4] = [1, 2, 7, 64];

fn open(found: &Found) -> Result<AnnealingSchedule, PluginError> {
    AnnealingSchedule::with_steps(found, "{}", STEPS)
}

fn ratio(found: &Found) -> Result<(), Stop> {
    let schedule = open(found)?;
    for step in (0..2 * STEPS).chain([100_000, u64::from(u32::MAX), u64::MAX]) {
        schedule.attn_mask_ratio(step)?;
    }
    Ok(())
}

fn reaches_full(found: &Found) -> Result<(), Stop> {
    let schedule = open(found)?;
    // Doubling steps: a schedule with steps of its own may take long.
    let mut full = None;
    for step in (0..40).map(|power| 1u64 << power) {
        match (schedule.attn_mask_ratio(step)?, full) {
            (1.0, None) => full = Some(step),
            (ratio, Some(before)) => {
                ensure(ratio == 1.0, || format!("it is 1 at step {before}, but {ratio} at step {step}"))?;
            }
            _ => {}
        }
    }
    ensure(full.is_some(), || "the ratio is not 1 at any step up to 2³⁹".into())
}

/// Calls `look` with a pattern for several steps, seeds and lengths.
fn patterns(
    found: &Found,
    mut look: impl FnMut(&dyn Fn() -> Result<Vec<bool>, PluginError>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let schedule = open(found)?;
    if !schedule.gives_patterns() {
        return Err(Stop::Skip("it leaves the pattern to the host".into()));
    }
    for length in LENGTHS {
        for step in [0, 1, STEPS / 3, STEPS - 2] {
            for seed in [0, 1, u64::MAX] {
                look(&|| Ok(schedule.attn_mask(step, seed, length)?.unwrap_or_default()))?;
            }
        }
    }
    Ok(())
}

fn causal_open(found: &Found) -> Result<(), Stop> {
    patterns(found, |pattern| Ok(pattern().map(drop)?))
}

fn same_pattern(found: &Found) -> Result<(), Stop> {
    patterns(found, |pattern| ensure(pattern()? == pattern()?, || "two calls gave two patterns".into()))
}

fn threads(found: &Found) -> Result<(), Stop> {
    let schedule = open(found)?;
    on_eight_threads(|| {
        let ratios: Vec<f64> = (0..STEPS).map(|step| schedule.attn_mask_ratio(step)).collect::<Result<_, _>>()?;
        Ok((ratios, schedule.attn_mask(STEPS / 2, 7, 32)?))
    })
}
