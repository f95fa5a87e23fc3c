//! Noise schedules: α(t) = P(token still clean at time t), with α(0) = 1, non-increasing, α(1) ≈ 0.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};

/// A noise schedule, by α, its derivative and the loss weight that follows from them.
///
/// `t` is always in [0, 1]. The loss weight is w(t) = −α′(t) / (1 − α(t)), the factor of the masked cross-entropy in the
/// continuous-time bound on the negative log-likelihood (method.md, "Objective"); it is infinite at t = 0.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseSchedule {
    /// α = 1 − t, w = 1/t. The paper's schedule.
    #[default]
    Linear,
    /// α = cos(πt/2)²: slow at both ends.
    Cosine,
}

impl NoiseSchedule {
    /// P(token kept) at time t.
    pub fn alpha(self, t: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - t,
            Self::Cosine => (FRAC_PI_2 * t).cos().powi(2),
        }
    }

    /// dα/dt, never positive.
    pub fn alpha_derivative(self, t: f64) -> f64 {
        match self {
            Self::Linear => -1.0,
            Self::Cosine => -FRAC_PI_2 * (2.0 * FRAC_PI_2 * t).sin(),
        }
    }

    /// Loss weight w(t) = −α′(t) / (1 − α(t)).
    pub fn weight(self, t: f64) -> f64 {
        -self.alpha_derivative(t) / (1.0 - self.alpha(t))
    }

    /// Probability that a token masked at t is revealed on the reverse step from t to s < t: (α(s) − α(t)) / (1 − α(t)).
    pub fn reveal_probability(self, t: f64, s: f64) -> f64 {
        (self.alpha(s) - self.alpha(t)) / (1.0 - self.alpha(t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [NoiseSchedule; 2] = [NoiseSchedule::Linear, NoiseSchedule::Cosine];

    #[test]
    fn ends_are_clean_and_masked_and_alpha_never_rises() {
        for schedule in ALL {
            assert!((schedule.alpha(0.0) - 1.0).abs() < 1e-12);
            assert!(schedule.alpha(1.0).abs() < 1e-12);
            let values: Vec<f64> = (0..=1000).map(|i| schedule.alpha(f64::from(i) / 1000.0)).collect();
            assert!(values.windows(2).all(|pair| pair[1] <= pair[0]));
        }
    }

    #[test]
    fn the_derivative_agrees_with_finite_differences() {
        let h = 1e-6;
        for schedule in ALL {
            for i in 1..100 {
                let t = f64::from(i) / 100.0;
                let difference = (schedule.alpha(t + h) - schedule.alpha(t - h)) / (2.0 * h);
                assert!((schedule.alpha_derivative(t) - difference).abs() < 1e-6, "{schedule:?} at {t}");
            }
        }
    }

    /// The paper's case, and the reason for MIN_T.
    #[test]
    fn the_linear_weight_is_one_over_t() {
        for t in [1e-3, 0.25, 0.5, 1.0] {
            assert!((NoiseSchedule::Linear.weight(t) - 1.0 / t).abs() < 1e-9);
        }
    }

    /// A full walk of reverse steps must leave a token masked with probability (1−α(0))/(1−α(1)) = 0.
    #[test]
    fn reverse_steps_compose() {
        for schedule in ALL {
            let half = 1.0 - schedule.reveal_probability(1.0, 0.5);
            let quarter = 1.0 - schedule.reveal_probability(0.5, 0.25);
            let direct = 1.0 - schedule.reveal_probability(1.0, 0.25);
            assert!((half * quarter - direct).abs() < 1e-12);
            assert!((schedule.reveal_probability(0.5, 0.0) - 1.0).abs() < 1e-12);
        }
    }
}
