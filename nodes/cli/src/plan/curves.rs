//! The schedules of a run as curves.

use difflow_diffusion::BlockSizes;
use difflow_plugin_host::{AnnealingSchedule, NoiseSchedule};
use difflow_trainer::config::ObjectiveKind;
use eyre::Result;

use crate::plan::cost::Work;
use crate::plugin::plot::Curve;

/// Points of a curve.
const POINTS: u64 = 200;

/// The mean over t, and over the rows where they are cut differently, of the share of tokens that is masked, 1 − α(t).
///
/// # Errors
/// The schedule is not one.
pub fn masked_share(noiser: &difflow_noiser::config::Config) -> Result<f64> {
    if noiser.complementary {
        // Of a row and its inverse together, each token once.
        return Ok(0.5);
    }
    let schedule = NoiseSchedule::open(&noiser.noise_schedule, &noiser.noise_schedule_config)?;
    let share = |low: f64, high: f64| -> Result<f64> {
        let points = 1000;
        let t: Vec<f64> = (0..points).map(|i| low + (high - low) * (f64::from(i) + 0.5) / f64::from(points)).collect();
        let alpha = schedule.alpha(&t)?;
        Ok(1.0 - alpha.iter().sum::<f64>() / alpha.len() as f64)
    };
    let whole = share(noiser.min_t, 1.0)?;
    let Ok(sizes) = noiser.block_size.parse::<BlockSizes>() else { return Ok(whole) };
    let cut = share(noiser.block_min_t, noiser.block_max_t)?;
    let of_cut = sizes.cut_share();
    Ok(of_cut * cut + (1.0 - of_cut) * whole)
}

/// Learning rate and attention over the steps, and α over t.
///
/// # Errors
/// A schedule is not one.
pub fn of(work: &Work) -> Result<Vec<Curve>> {
    let t = &work.trainer;
    let steps: Vec<u64> = (0..=POINTS).map(|i| i * (t.steps - 1) / POINTS).collect();
    let rate = t.learning_rate();
    let over_steps = |name: &str, points| Curve { name: name.into(), x: "steps".into(), points };
    let mut curves =
        vec![over_steps("learning rate", steps.iter().map(|&step| (step as f64, rate.at(step))).collect())];
    if t.objective == ObjectiveKind::Ar {
        return Ok(curves);
    }
    let schedule = AnnealingSchedule::open(&t.annealing_schedule, &t.annealing_schedule_config, t.anneal_steps())?;
    let ratios: Result<Vec<(f64, f64)>, _> = steps
        .iter()
        .map(|&step| Ok::<_, difflow_plugin_host::PluginError>((step as f64, schedule.attn_mask_ratio(step)?)))
        .collect();
    curves.push(over_steps("attn_mask_ratio: how much of the right-hand side attention may see", ratios?));
    let schedule = NoiseSchedule::open(&work.noiser.noise_schedule, &work.noiser.noise_schedule_config)?;
    let t: Vec<f64> = (0..=POINTS).map(|i| i as f64 / POINTS as f64).collect();
    let points = t.iter().copied().zip(schedule.alpha(&t)?).collect();
    curves.push(Curve { name: "α(t): share of tokens kept".into(), x: "t".into(), points });
    Ok(curves)
}
