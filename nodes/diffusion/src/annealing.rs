//! Annealing schedules: how much of the future attention may see at each optimizer step.

use serde::{Deserialize, Serialize};

/// The share of non-causal attention entries that is open at a step: 0 is the autoregressive model's causal pattern,
/// 1 is full attention.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnnealingSchedule {
    /// min(1, (step + 1) / anneal_steps), the paper's code.
    #[default]
    Linear,
    /// Full attention from the first step (the paper's 7B model, and finetuning).
    None,
}

impl AnnealingSchedule {
    /// attn_mask_ratio in [0, 1] at optimizer step `step` (counted from 0).
    pub fn attn_mask_ratio(self, step: u64, anneal_steps: u64) -> f64 {
        match self {
            Self::Linear => ((step + 1) as f64 / anneal_steps.max(1) as f64).min(1.0),
            Self::None => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_is_the_papers_ramp() {
        let ratio = |step| AnnealingSchedule::Linear.attn_mask_ratio(step, 10_000);
        assert_eq!(ratio(0), 1e-4);
        assert_eq!(ratio(4_999), 0.5);
        assert_eq!(ratio(9_999), 1.0);
        assert_eq!(ratio(1_000_000), 1.0);
    }

    #[test]
    fn none_is_full_from_the_start() {
        assert_eq!(AnnealingSchedule::None.attn_mask_ratio(0, 10_000), 1.0);
    }
}
