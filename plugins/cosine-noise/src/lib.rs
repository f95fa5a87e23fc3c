//! A noise schedule as a plug-in: α = 1 − sin(πt/2)^power. With power 2 it is difflow's own cosine.

use std::f64::consts::FRAC_PI_2;

use difflow_plugin_sdk::{NoiseSchedule, config, plugin};

config! {
    pub struct Cosine {
        /// Exponent of the sine: above 1 the first tokens are masked late.
        power: f64 = 2.0, minimum 1.0, maximum 16.0;
    }
}

impl NoiseSchedule for Cosine {
    fn alpha(&self, t: f64) -> f64 {
        1.0 - (FRAC_PI_2 * t).sin().powf(self.power)
    }

    fn alpha_derivative(&self, t: f64) -> f64 {
        let (sin, cos) = (FRAC_PI_2 * t).sin_cos();
        -FRAC_PI_2 * self.power * sin.powf(self.power - 1.0) * cos
    }
}

plugin! {
    noise_schedule Cosine {
        id: "org.difflow.examples.cosine-noise",
        name: "Cosine with a power",
        vendor: "difflow",
        license: "Apache-2.0",
        description: "α = 1 − sin(πt/2)^power: slow at both ends"
    }
}
