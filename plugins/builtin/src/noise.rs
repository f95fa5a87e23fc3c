//! Noise schedules. The weight is written out explicitly where −α′/(1 − α) would lose digits near t = 0.

use std::f64::consts::FRAC_PI_2;

use difflow_plugin_sdk::{Component, Error, NoiseSchedule, config};

config! {
    /// α = 1 − t.
    pub struct LinearNoise {}
}

impl NoiseSchedule for LinearNoise {
    fn alpha(&self, t: f64) -> f64 {
        1.0 - t
    }

    fn alpha_derivative(&self, _: f64) -> f64 {
        -1.0
    }

    fn weight(&self, t: f64) -> f64 {
        1.0 / t
    }
}

config! {
    /// α = cos²(πt/2), so 1 − α = sin²(πt/2) and w = π / tan(πt/2).
    pub struct CosineNoise {}
}

impl NoiseSchedule for CosineNoise {
    fn alpha(&self, t: f64) -> f64 {
        (FRAC_PI_2 * t).cos().powi(2)
    }

    fn alpha_derivative(&self, t: f64) -> f64 {
        -FRAC_PI_2 * (2.0 * FRAC_PI_2 * t).sin()
    }

    fn weight(&self, t: f64) -> f64 {
        2.0 * FRAC_PI_2 / (FRAC_PI_2 * t).tan()
    }
}

config! {
    pub struct GeometricOptions {
        /// Total noise at t = 0 (taken off again, so that α(0) = 1).
        sigma_min: f64 = 0.001, exclusiveMinimum 0.0;
        /// Total noise at t = 1: e^−sigma_max of the tokens stay clean.
        sigma_max: f64 = 20.0, exclusiveMinimum 0.0;
    }
}

/// The geometric schedule of score-entropy diffusion (arXiv 2310.16834), moved so that α(0) = 1.
pub struct Geometric {
    sigma_min: f64,
    log_ratio: f64,
}

impl Component for Geometric {
    type Config = GeometricOptions;

    fn create(options: GeometricOptions) -> Result<Self, Error> {
        let GeometricOptions { sigma_min, sigma_max } = options;
        if sigma_max <= sigma_min {
            return Err(Error::config("/sigma_max", format!("found {sigma_max}; more than sigma_min ({sigma_min})")));
        }
        Ok(Self { sigma_min, log_ratio: (sigma_max / sigma_min).ln() })
    }
}

impl Geometric {
    /// σ(t) − σ(0).
    fn added(&self, t: f64) -> f64 {
        self.sigma_min * (self.log_ratio * t).exp_m1()
    }

    fn slope(&self, t: f64) -> f64 {
        self.sigma_min * self.log_ratio * (self.log_ratio * t).exp()
    }
}

impl NoiseSchedule for Geometric {
    fn alpha(&self, t: f64) -> f64 {
        (-self.added(t)).exp()
    }

    fn alpha_derivative(&self, t: f64) -> f64 {
        -self.slope(t) * self.alpha(t)
    }

    fn weight(&self, t: f64) -> f64 {
        self.slope(t) / self.added(t).exp_m1()
    }
}

config! {
    /// σ(t) = −ln(1 − (1 − ε) t), the log-linear schedule (arXiv 2310.16834).
    pub struct LogLinear {
        /// Share of the tokens that is still clean at t = 1.
        epsilon: f64 = 0.001, minimum 0.0, exclusiveMaximum 1.0;
    }
}

impl NoiseSchedule for LogLinear {
    fn alpha(&self, t: f64) -> f64 {
        1.0 - (1.0 - self.epsilon) * t
    }

    fn alpha_derivative(&self, _: f64) -> f64 {
        -(1.0 - self.epsilon)
    }

    fn weight(&self, t: f64) -> f64 {
        1.0 / t
    }
}

config! {
    /// α = 1 − tᵖ.
    pub struct Polynomial {
        /// Exponent of t: above 1 the first tokens are masked late, below 1 early.
        power: f64 = 2.0, exclusiveMinimum 0.0;
    }
}

impl NoiseSchedule for Polynomial {
    fn alpha(&self, t: f64) -> f64 {
        1.0 - t.powf(self.power)
    }

    fn alpha_derivative(&self, t: f64) -> f64 {
        // At 0 the slope of a power below 1 is infinite; the largest finite number stands for it.
        (-self.power * t.powf(self.power - 1.0)).max(f64::MIN)
    }

    fn weight(&self, t: f64) -> f64 {
        self.power / t
    }
}

config! {
    pub struct ClippedOptions {
        /// Masked share just above t = 0.
        low: f64 = 0.3, minimum 0.0, exclusiveMaximum 1.0;
        /// Masked share at t = 1.
        high: f64 = 0.8, exclusiveMinimum 0.0, maximum 1.0;
    }
}

/// The clipped schedule of block diffusion (arXiv 2503.09573): the linear schedule's t runs over [low, high] only.
pub struct Clipped {
    low: f64,
    span: f64,
}

impl Component for Clipped {
    type Config = ClippedOptions;

    fn create(options: ClippedOptions) -> Result<Self, Error> {
        let ClippedOptions { low, high } = options;
        if high <= low {
            return Err(Error::config("/high", format!("found {high}; more than low ({low})")));
        }
        Ok(Self { low, span: high - low })
    }
}

impl NoiseSchedule for Clipped {
    fn alpha(&self, t: f64) -> f64 {
        if t > 0.0 { 1.0 - (self.low + self.span * t) } else { 1.0 }
    }

    fn alpha_derivative(&self, _: f64) -> f64 {
        -self.span
    }

    fn weight(&self, t: f64) -> f64 {
        self.span / (self.low + self.span * t)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_plugin_sdk::config::parse;

    use super::*;

    /// The paper's case, and the reason for a smallest t in training.
    #[test]
    fn the_linear_weight_is_one_over_t() {
        for t in [1e-3, 0.25, 0.5, 1.0] {
            assert_eq!(LinearNoise {}.weight(t), 1.0 / t);
        }
    }

    /// A weight that is written out must be the one of the bound: −α′/(1 − α).
    #[test]
    fn written_out_weights_are_those_of_the_formula() {
        fn agrees<T: NoiseSchedule>(options: &str) {
            let schedule = T::create(parse(options).unwrap()).unwrap();
            for t in (1..=100).map(|i| f64::from(i) / 100.0) {
                let wanted = -schedule.alpha_derivative(t) / (1.0 - schedule.alpha(t));
                let found = schedule.weight(t);
                assert!((found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0), "{found} at {t}, wanted {wanted}");
            }
        }
        agrees::<LinearNoise>("{}");
        agrees::<CosineNoise>("{}");
        agrees::<Geometric>("{}");
        agrees::<LogLinear>(r#"{"epsilon": 0.1}"#);
        agrees::<Polynomial>(r#"{"power": 0.5}"#);
        agrees::<Clipped>("{}");
    }

    /// With the whole range, clipping changes nothing; with a part, no row is cleaner than `low`.
    #[test]
    fn clipping_keeps_the_masked_share_between_its_ends() {
        let clipped = |options: &str| Clipped::create(parse(options).unwrap()).unwrap();
        let (whole, part) = (clipped(r#"{"low": 0, "high": 1}"#), clipped("{}"));
        for t in [0.001, 0.5, 1.0] {
            assert!((whole.alpha(t) - (1.0 - t)).abs() < 1e-12);
            assert!((0.3 - 1e-12..=0.8 + 1e-12).contains(&(1.0 - part.alpha(t))));
        }
        assert_eq!(part.alpha(0.0), 1.0);
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let pointer = |error: Option<Error>| error.and_then(|e| e.path().map(str::to_owned));
        let clipped = Clipped::create(parse(r#"{"low": 0.9}"#).unwrap()).err();
        assert_eq!(pointer(clipped).as_deref(), Some("/high"));
        let geometric = Geometric::create(parse(r#"{"sigma_min": 50}"#).unwrap()).err();
        assert_eq!(pointer(geometric).as_deref(), Some("/sigma_max"));
    }
}
