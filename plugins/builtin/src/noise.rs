//! Noise schedules. The weight is written out where −α′/(1 − α) would lose digits near t = 0.

use std::f64::consts::FRAC_PI_2;

use difflow_plugin_sdk::{Component, Error, NoiseSchedule, config};

/// α = 1 − t.
pub struct LinearNoise;

impl Component for LinearNoise {
    type Config = ();

    fn create((): ()) -> Result<Self, Error> {
        Ok(Self)
    }
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

/// α = cos²(πt/2), so 1 − α = sin²(πt/2) and w = π / tan(πt/2).
pub struct CosineNoise;

impl Component for CosineNoise {
    type Config = ();

    fn create((): ()) -> Result<Self, Error> {
        Ok(Self)
    }
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
    pub struct LogLinearOptions {
        /// Share of the tokens that is still clean at t = 1.
        epsilon: f64 = 0.001, minimum 0.0, exclusiveMaximum 1.0;
    }
}

/// σ(t) = −ln(1 − (1 − ε) t), the log-linear schedule (arXiv 2310.16834).
pub struct LogLinear(f64);

impl Component for LogLinear {
    type Config = LogLinearOptions;

    fn create(options: LogLinearOptions) -> Result<Self, Error> {
        Ok(Self(1.0 - options.epsilon))
    }
}

impl NoiseSchedule for LogLinear {
    fn alpha(&self, t: f64) -> f64 {
        1.0 - self.0 * t
    }

    fn alpha_derivative(&self, _: f64) -> f64 {
        -self.0
    }

    fn weight(&self, t: f64) -> f64 {
        1.0 / t
    }
}

config! {
    pub struct PolynomialOptions {
        /// Exponent of t: above 1 the first tokens are masked late, below 1 early.
        power: f64 = 2.0, exclusiveMinimum 0.0;
    }
}

/// α = 1 − tᵖ.
pub struct Polynomial(f64);

impl Component for Polynomial {
    type Config = PolynomialOptions;

    fn create(options: PolynomialOptions) -> Result<Self, Error> {
        Ok(Self(options.power))
    }
}

impl NoiseSchedule for Polynomial {
    fn alpha(&self, t: f64) -> f64 {
        1.0 - t.powf(self.0)
    }

    fn alpha_derivative(&self, t: f64) -> f64 {
        // At 0 the slope of a power below 1 is infinite; the largest finite number stands for it.
        (-self.0 * t.powf(self.0 - 1.0)).max(f64::MIN)
    }

    fn weight(&self, t: f64) -> f64 {
        self.0 / t
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
