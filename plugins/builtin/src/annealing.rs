//! Annealing schedules that are a ratio over steps: the host opens each future position with that probability.

use std::f64::consts::PI;

use difflow_plugin_sdk::{AnnealingSchedule, config};

/// Progress of step `step`: (step + 1) / anneal_steps, at most 1. The paper's code counts so.
pub fn progress(step: u64, anneal_steps: u64) -> f64 {
    (step.saturating_add(1) as f64 / anneal_steps as f64).min(1.0)
}

config! {
    /// The paper's ramp.
    pub struct Linear {
        /// Optimizer steps until attention is full. The key ANNEAL_STEPS gives it where it is not set here.
        anneal_steps: u64 = 10000, minimum 1;
    }
}

impl AnnealingSchedule for Linear {
    fn attn_mask_ratio(&self, step: u64) -> f64 {
        progress(step, self.anneal_steps)
    }
}

config! {
    /// Half a cosine.
    pub struct Cosine {
        /// Optimizer steps until attention is full. The key ANNEAL_STEPS gives it where it is not set here.
        anneal_steps: u64 = 10000, minimum 1;
    }
}

impl AnnealingSchedule for Cosine {
    fn attn_mask_ratio(&self, step: u64) -> f64 {
        0.5 - 0.5 * (PI * progress(step, self.anneal_steps)).cos()
    }
}

config! {
    /// Equal jumps.
    pub struct Step {
        /// Optimizer steps until attention is full. The key ANNEAL_STEPS gives it where it is not set here.
        anneal_steps: u64 = 10000, minimum 1;
        /// Jumps until then.
        stages: u64 = 4, minimum 1;
    }
}

impl AnnealingSchedule for Step {
    fn attn_mask_ratio(&self, step: u64) -> f64 {
        (progress(step, self.anneal_steps) * self.stages as f64).floor() / self.stages as f64
    }
}

config! {
    /// Fast, then slow.
    pub struct Exponential {
        /// Optimizer steps until attention is full. The key ANNEAL_STEPS gives it where it is not set here.
        anneal_steps: u64 = 10000, minimum 1;
        /// How much faster the beginning is than the end.
        rate: f64 = 5.0, exclusiveMinimum 0.0, maximum 100.0;
    }
}

impl AnnealingSchedule for Exponential {
    fn attn_mask_ratio(&self, step: u64) -> f64 {
        (-self.rate * progress(step, self.anneal_steps)).exp_m1() / (-self.rate).exp_m1()
    }
}

config! {
    /// Full from the start.
    pub struct Full {}
}

impl AnnealingSchedule for Full {
    fn attn_mask_ratio(&self, _: u64) -> f64 {
        1.0
    }
}
