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
            alpha: Some(alpha::<T>),
            alpha_derivative: Some(alpha_derivative::<T>),
            weight: Some(weight::<T>),
        }
    }
}

unsafe extern "C-unwind" fn alpha<T: NoiseSchedule>(
    instance: *const abi::Instance,
    t: *const f64,
    n: usize,
    out: *mut f64,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe { map(instance, (t, n, out), error, T::alpha) }
}

unsafe extern "C-unwind" fn alpha_derivative<T: NoiseSchedule>(
    instance: *const abi::Instance,
    t: *const f64,
    n: usize,
    out: *mut f64,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe { map(instance, (t, n, out), error, T::alpha_derivative) }
}

unsafe extern "C-unwind" fn weight<T: NoiseSchedule>(
    instance: *const abi::Instance,
    t: *const f64,
    n: usize,
    out: *mut f64,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe { map(instance, (t, n, out), error, T::weight) }
}

/// Applies `function` to `n` values; the arrays may be NULL when there are none.
unsafe fn map<T: NoiseSchedule>(
    instance: *const abi::Instance,
    (t, n, out): (*const f64, usize, *mut f64),
    error: *mut abi::Error,
    function: fn(&T, f64) -> f64,
) -> Status {
    // SAFETY: `t` and `out` hold `n` values each, by the header's contract.
    unsafe {
        instance::call(instance, error, |schedule: &T, _| {
            if n > 0 && (t.is_null() || out.is_null()) {
                return Err(Error::argument("an array is NULL"));
            }
            for i in 0..n {
                *out.add(i) = function(schedule, *t.add(i));
            }
            Ok(())
        })
    }
}
