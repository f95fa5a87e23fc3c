//! Learning-rate schedules: pure functions of the step.

/// Shape of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Decay {
    Constant,
    /// Half a cosine down to the final share.
    #[default]
    Cosine,
    /// A straight line down to the final share.
    Linear,
    /// Warm-up, stable, decay: constant, then a straight line over the last `decay_steps`.
    Wsd {
        decay_steps: u64,
    },
}

/// A schedule over `total_steps`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    pub peak: f64,
    pub decay: Decay,
    /// Steps of linear rise; the first step has peak / warmup_steps.
    pub warmup_steps: u64,
    pub total_steps: u64,
    /// Learning rate at the end as a share of the peak.
    pub final_share: f64,
}

impl LearningRate {
    /// Learning rate of optimizer step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let share = |from: u64| {
            let steps = self.total_steps.saturating_sub(from).max(1);
            (step.saturating_sub(from) as f64 / steps as f64).min(1.0)
        };
        let left = 1.0 - self.final_share;
        self.peak
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Cosine => {
                    self.final_share + left * 0.5 * (1.0 + (std::f64::consts::PI * share(self.warmup_steps)).cos())
                }
                Decay::Linear => 1.0 - left * share(self.warmup_steps),
                Decay::Wsd { decay_steps } => {
                    1.0 - left * share(self.total_steps.saturating_sub(decay_steps).max(self.warmup_steps))
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decay_rises_to_the_peak_and_ends_at_its_share() {
        for decay in [Decay::Cosine, Decay::Linear, Decay::Wsd { decay_steps: 20 }, Decay::Constant] {
            let rate = LearningRate { peak: 2.0, decay, warmup_steps: 10, total_steps: 100, final_share: 0.1 };
            assert_eq!(rate.at(0), 0.2);
            assert_eq!(rate.at(9), 2.0);
            assert!((rate.at(10) - 2.0).abs() < 1e-12, "{decay:?}");
            let end = if decay == Decay::Constant { 2.0 } else { 0.2 };
            assert!((rate.at(100) - end).abs() < 1e-12, "{decay:?}");
            assert!((11..=100).all(|s| rate.at(s) <= rate.at(s - 1) + 1e-12), "{decay:?}");
        }
        let wsd = LearningRate {
            peak: 1.0,
            decay: Decay::Wsd { decay_steps: 20 },
            warmup_steps: 0,
            total_steps: 100,
            final_share: 0.0,
        };
        assert_eq!((wsd.at(80), wsd.at(90)), (1.0, 0.5));
    }
}
