//! Kind: noise schedule.

use crate::abi::{self, Status};
use crate::{Component, Error, instance};

/// α(t) = P(token still clean at time t), for t in [0, 1]: α(0) = 1, never rising. Called from several threads.
pub trait NoiseSchedule: Component + Sync {
    /// α(t).
    fn alpha(&self, t: f64) -> f64;

    /// dα/dt, never positive.
    fn alpha_derivative(&self, t: f64) -> f64;

    /// Loss weight w(t), by default −α′(t) / (1 − α(t)): the factor that makes the loss the bound on the likelihood.
    fn weight(&self, t: f64) -> f64 {
        -self.alpha_derivative(t) / (1.0 - self.alpha(t))
    }
}

/// The table of `T`.
pub fn table<T: NoiseSchedule>() -> &'static abi::NoiseSchedule {
    const {
        &abi::NoiseSchedule {
            struct_size: size_of::<abi::NoiseSchedule>() as u32,
            alpha: Some(over_time::<T, Alpha>),
            alpha_derivative: Some(over_time::<T, AlphaDerivative>),
            weight: Some(over_time::<T, Weight>),
        }
    }
}

/// One of a schedule's functions of t.
trait Function<T> {
    fn at(schedule: &T, t: f64) -> f64;
}

struct Alpha;
struct AlphaDerivative;
struct Weight;

impl<T: NoiseSchedule> Function<T> for Alpha {
    fn at(schedule: &T, t: f64) -> f64 {
        schedule.alpha(t)
    }
}

impl<T: NoiseSchedule> Function<T> for AlphaDerivative {
    fn at(schedule: &T, t: f64) -> f64 {
        schedule.alpha_derivative(t)
    }
}

impl<T: NoiseSchedule> Function<T> for Weight {
    fn at(schedule: &T, t: f64) -> f64 {
        schedule.weight(t)
    }
}

/// The values of a function at `n` times; the arrays may be NULL when there are none.
///
/// # Safety
/// As the header says of `alpha`.
unsafe extern "C-unwind" fn over_time<T: NoiseSchedule, F: Function<T>>(
    instance: *const abi::Instance,
    t: *const f64,
    n: usize,
    out: *mut f64,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: `t` and `out` hold `n` values each, by the header's contract.
    unsafe {
        instance::call(instance, error, |schedule: &T, _| {
            if n > 0 && (t.is_null() || out.is_null()) {
                return Err(Error::argument("an array is NULL"));
            }
            for i in 0..n {
                *out.add(i) = F::at(schedule, *t.add(i));
            }
            Ok(())
        })
    }
}
