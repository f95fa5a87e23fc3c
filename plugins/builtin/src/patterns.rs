//! Annealing schedules that return the whole attention pattern.

use difflow_plugin_sdk::{AnnealingSchedule, config};

use crate::annealing::progress;

config! {
    /// Position i sees up to i + k, and k grows to the whole sequence.
    pub struct Band {
        /// Optimizer steps until attention is full. The key ANNEAL_STEPS gives it where it is not set here.
        anneal_steps: u64 = 10000, minimum 1;
    }
}

impl AnnealingSchedule for Band {
    const WHOLE_PATTERN: bool = true;

    fn attn_mask_ratio(&self, step: u64) -> f64 {
        progress(step, self.anneal_steps)
    }

    fn attn_mask(&self, step: u64, _: u64, seq_len: usize, visible: &mut [bool]) {
        let right = (progress(step, self.anneal_steps) * seq_len.saturating_sub(1) as f64).round() as usize;
        reach(visible, seq_len, |i| i + right + 1);
    }
}

config! {
    /// Growing blocks, as in LLaDA 2.0.
    pub struct Blocks {
        /// Optimizer steps until attention is full. The key ANNEAL_STEPS gives it where it is not set here.
        anneal_steps: u64 = 10000, minimum 1;
        /// Sizes before the whole sequence, size 1 (causal) among them; all last equally long.
        stages: u64 = 4, minimum 1;
        /// The size after 1.
        first: u64 = 4, minimum 1;
        /// How many times larger each size after that is.
        growth: u64 = 8, minimum 1;
    }
}

impl Blocks {
    fn stage(&self, step: u64) -> u64 {
        (progress(step, self.anneal_steps) * self.stages as f64) as u64
    }
}

impl AnnealingSchedule for Blocks {
    const WHOLE_PATTERN: bool = true;

    fn attn_mask_ratio(&self, step: u64) -> f64 {
        self.stage(step) as f64 / self.stages as f64
    }

    fn attn_mask(&self, step: u64, _: u64, seq_len: usize, visible: &mut [bool]) {
        let size = match self.stage(step) {
            0 => 1,
            stage => self.growth.saturating_pow(stage as u32 - 1).saturating_mul(self.first),
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX).clamp(1, seq_len.max(1));
        reach(visible, seq_len, |i| (i / size + 1) * size);
    }
}

/// Opens row i up to (not including) `end(i)`.
fn reach(visible: &mut [bool], seq_len: usize, end: impl Fn(usize) -> usize) {
    for (i, row) in visible.chunks_mut(seq_len.max(1)).enumerate() {
        row[..end(i).min(seq_len)].fill(true);
    }
}
