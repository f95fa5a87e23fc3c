//! Noise schedules from plug-ins, with every answer checked.

use difflow_plugin_abi as abi;

use crate::error::PluginError;
use crate::find::{Found, find};
use crate::instance::Instance;
use crate::library::Kind;

/// Points of t at which a schedule is looked at before it is used.
const GRID: usize = 256;
/// How far α(0) may be from 1, and α may rise, by rounding.
const ROUNDING: f64 = 1e-9;

/// α(t) = P(token still clean at time t), with its derivative and loss weight.
#[derive(Debug)]
pub struct NoiseSchedule {
    instance: Instance,
    alpha: abi::OverTime,
    alpha_derivative: abi::OverTime,
    weight: Option<abi::OverTime>,
}

impl NoiseSchedule {
    /// Finds a noise schedule, makes an instance and looks whether α begins at 1, never rises and stays in [0, 1].
    ///
    /// # Errors
    /// What is wrong with value, configuration or schedule.
    pub fn open(value: &str, config: &str) -> Result<Self, PluginError> {
        let found = find(Kind::NoiseSchedule, value)?;
        // Another instance is looked at: one that remembers what it was asked is handed out as new.
        Self::of(&found, config)?.check()?;
        Self::of(&found, config)
    }

    /// An instance of a found component, not looked at yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn of(found: &Found, config: &str) -> Result<Self, PluginError> {
        let instance = Instance::create(found, Kind::NoiseSchedule, config)?;
        let table: abi::NoiseSchedule = instance.table()?;
        let alpha = table.alpha.ok_or_else(|| instance.missing("alpha"))?;
        let alpha_derivative = table.alpha_derivative.ok_or_else(|| instance.missing("alpha_derivative"))?;
        Ok(Self { instance, alpha, alpha_derivative, weight: table.weight })
    }

    /// Looks at the schedule on a grid.
    ///
    /// # Errors
    /// Names the first t at which it is no noise schedule.
    pub fn check(&self) -> Result<(), PluginError> {
        let t: Vec<f64> = (0..=GRID).map(|i| i as f64 / GRID as f64).collect();
        let alpha = self.alpha(&t)?;
        if (alpha[0] - 1.0).abs() > ROUNDING {
            return Err(self.instance.wrong("alpha", format!("α(0) = {}", alpha[0]), "1: nothing is masked at t = 0"));
        }
        if let Some(i) = (1..alpha.len()).find(|&i| alpha[i] > alpha[i - 1] + ROUNDING) {
            let found = format!("α({}) = {} after α({}) = {}", t[i], alpha[i], t[i - 1], alpha[i - 1]);
            return Err(self.instance.wrong("alpha", found, "values that never rise with t"));
        }
        self.weight(&t[1..])?;
        Ok(())
    }

    /// The component behind it.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// α at each t in [0, 1].
    ///
    /// # Errors
    /// When the plug-in fails or gives something outside [0, 1].
    pub fn alpha(&self, t: &[f64]) -> Result<Vec<f64>, PluginError> {
        self.ask("alpha", self.alpha, t, "a number in [0, 1]", |a| (-ROUNDING..=1.0 + ROUNDING).contains(&a)).map(
            |mut alpha| {
                alpha.iter_mut().for_each(|a| *a = a.clamp(0.0, 1.0));
                alpha
            },
        )
    }

    /// dα/dt at each t.
    ///
    /// # Errors
    /// When the plug-in fails or gives something positive or not finite.
    pub fn alpha_derivative(&self, t: &[f64]) -> Result<Vec<f64>, PluginError> {
        self.ask("alpha_derivative", self.alpha_derivative, t, "a finite number, at most 0", |d| {
            d.is_finite() && d <= ROUNDING
        })
    }

    /// The loss weight w(t) at each t in (0, 1]: the plug-in's own, else −α′(t) / (1 − α(t)).
    ///
    /// # Errors
    /// When the plug-in fails or the weight is negative or not finite.
    pub fn weight(&self, t: &[f64]) -> Result<Vec<f64>, PluginError> {
        let fits = |w: f64| w.is_finite() && w >= 0.0;
        if let Some(weight) = self.weight {
            return self.ask("weight", weight, t, "a finite number, at least 0", fits);
        }
        let (alpha, derivative) = (self.alpha(t)?, self.alpha_derivative(t)?);
        let weights: Vec<f64> = alpha.iter().zip(&derivative).map(|(a, d)| (-d / (1.0 - a)).max(0.0)).collect();
        match weights.iter().position(|&w| !fits(w)) {
            None => Ok(weights),
            Some(i) => {
                let found = format!("α({}) = {} with α′ = {}", t[i], alpha[i], derivative[i]);
                Err(self.instance.wrong("alpha", found, "α < 1 where tokens carry loss, or a `weight` function"))
            }
        }
    }

    fn ask(
        &self,
        function: &'static str,
        pointer: abi::OverTime,
        t: &[f64],
        wanted: &str,
        fits: impl Fn(f64) -> bool,
    ) -> Result<Vec<f64>, PluginError> {
        // A plug-in that leaves a value out is found by the NaN that stays there.
        let mut out = vec![f64::NAN; t.len()];
        // SAFETY: both arrays hold as many numbers as said.
        self.instance.call(function, |instance, error| unsafe {
            pointer(instance, t.as_ptr(), t.len(), out.as_mut_ptr(), error)
        })?;
        match out.iter().position(|&value| !fits(value)) {
            None => Ok(out),
            Some(i) => Err(self.instance.wrong(function, format!("{} at t = {}", out[i], t[i]), wanted)),
        }
    }
}
