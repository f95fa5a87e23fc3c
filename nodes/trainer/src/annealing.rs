//! From the annealing schedule to the attention pattern of a forward pass.

use difflow_diffusion::keyed;
use difflow_model::Pattern;
use difflow_node_kit::{Problem, Problems};
use difflow_plugin_host::{AnnealingSchedule, PluginError};

use crate::config::Config;

/// Opens the schedule that the configuration names.
///
/// # Errors
/// What is wrong with it, by key.
pub fn open(config: &Config) -> Result<AnnealingSchedule, Problems> {
    let (value, options) = (&config.annealing_schedule, &config.annealing_schedule_config);
    AnnealingSchedule::open(value, options, config.anneal_steps())
        .map_err(|e| Problem::new(e.key("ANNEALING_SCHEDULE"), value, e.to_string()).into())
}

/// The pattern of micro-step `draw` at optimizer step `step`, for rows of `length`. At the ends no pattern is asked for: causal and
/// full have kernels of their own.
///
/// # Errors
/// When the schedule fails.
pub fn pattern(
    schedule: &AnnealingSchedule,
    (ratio, step): (f64, u64),
    (seed, draw): (u64, u64),
    length: usize,
) -> Result<Pattern, PluginError> {
    if schedule.gives_patterns() && ratio > 0.0 && ratio < 1.0 {
        // The plug-in has its own draw for every forward, as the elementwise one has.
        let forward = (keyed::uniform(&mut keyed::rng(seed, "attention", draw, 1)) * 2f64.powi(53)) as u64;
        if let Some(visible) = schedule.attn_mask(step, forward, length)? {
            return Ok(Pattern::Explicit { visible: visible.into() });
        }
    }
    Ok(Pattern::Annealed { ratio, seed, draw })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(schedule: &str, step: u64) -> Pattern {
        let config = Config { annealing_schedule: schedule.into(), anneal_steps: Some(100), ..Config::default() };
        let schedule = open(&config).unwrap();
        let ratio = schedule.attn_mask_ratio(step).unwrap();
        pattern(&schedule, (ratio, step), (7, 3), 8).unwrap()
    }

    #[test]
    fn a_ratio_is_drawn_by_the_host_and_a_pattern_is_the_schedules_own() {
        assert_eq!(at("linear", 49), Pattern::Annealed { ratio: 0.5, seed: 7, draw: 3 });
        let band = at("band", 49).visible(8).unwrap();
        assert_eq!(band, Pattern::Band { right: 4 }.visible(8).unwrap());
        let blocks = at("blocks", 49).visible(8).unwrap();
        assert_eq!(blocks, Pattern::Full.visible(8).unwrap(), "blocks of 32 cover 8 positions");
        let blocks = at("blocks", 25).visible(8).unwrap();
        assert_eq!(blocks, Pattern::Block { size: 4 }.visible(8).unwrap());
    }

    #[test]
    fn all_of_them_end_with_full_attention() {
        for schedule in ["linear", "cosine", "step", "exponential", "none", "band", "blocks"] {
            assert_eq!(at(schedule, 99), Pattern::Annealed { ratio: 1.0, seed: 7, draw: 3 }, "{schedule}");
        }
    }
}
