//! Tests of noise schedules.

use super::{Stop, Test, ensure, on_eight_threads};
use crate::error::PluginError;
use crate::find::Found;
use crate::noise::NoiseSchedule;

pub const TESTS: &[Test] = &[
    Test { name: "alpha", what: "α is finite and in [0, 1] over all of [0, 1]", run: alpha },
    Test { name: "alpha-0", what: "α(0) = 1 and α never rises", run: falls },
    Test {
        name: "derivative", what: "α′ is what finite differences of α give, and never positive", run: derivative
    },
    Test { name: "weight", what: "the loss weight is finite and not negative", run: weight },
    Test { name: "sizes", what: "arrays of 0 and of a million numbers", run: sizes },
    Test { name: "threads", what: "the same bits from eight threads", run: threads },
];

fn open(found: &Found) -> Result<NoiseSchedule, PluginError> {
    NoiseSchedule::of(found, "{}")
}

/// `n` + 1 values from `from` to 1.
fn grid(from: f64, n: usize) -> Vec<f64> {
    (0..=n).map(|i| from + (1.0 - from) * i as f64 / n as f64).collect()
}

fn alpha(found: &Found) -> Result<(), Stop> {
    open(found)?.alpha(&grid(0.0, 10_000))?;
    Ok(())
}

fn falls(found: &Found) -> Result<(), Stop> {
    Ok(open(found)?.check()?)
}

fn derivative(found: &Found) -> Result<(), Stop> {
    let schedule = open(found)?;
    let (h, t) = (1e-6, grid(0.01, 990));
    let t = &t[..t.len() - 10];
    let moved = |by: f64| schedule.alpha(&t.iter().map(|t| t + by).collect::<Vec<_>>());
    let (low, high) = (moved(-h)?, moved(h)?);
    for (i, found) in schedule.alpha_derivative(t)?.into_iter().enumerate() {
        let wanted = (high[i] - low[i]) / (2.0 * h);
        let close = (found - wanted).abs() <= 1e-4 * (1.0 + wanted.abs());
        ensure(close, || format!("α′({}) = {found}, finite differences give {wanted}", t[i]))?;
    }
    Ok(())
}

fn weight(found: &Found) -> Result<(), Stop> {
    open(found)?.weight(&grid(difflow_diffusion::MIN_T, 10_000))?;
    Ok(())
}

fn sizes(found: &Found) -> Result<(), Stop> {
    let schedule = open(found)?;
    schedule.alpha(&[])?;
    schedule.weight(&[])?;
    let many = grid(0.0, 1_000_000);
    let all = schedule.alpha(&many)?;
    let one = schedule.alpha(&many[500_000..500_001])?;
    ensure(all[500_000] == one[0], || "α of one t is not what it is among a million".into())
}

fn threads(found: &Found) -> Result<(), Stop> {
    let schedule = open(found)?;
    let t = grid(0.001, 2_000);
    on_eight_threads(|| Ok((schedule.alpha(&t)?, schedule.alpha_derivative(&t)?, schedule.weight(&t)?)))
}
