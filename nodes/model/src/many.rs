//! Operations on many tensors at once: on a GPU one launch for hundreds of parameters.

use std::ffi::{c_char, c_int, c_void};

use tch::Tensor;

use crate::error::ModelError;
use crate::optimizer::AdamW;
use crate::shim::checked;

/// A C_tensor pointer of tch.
type Raw = *mut c_void;

unsafe extern "C" {
    fn difflow_norm(tensors: *const Raw, count: usize, out: *mut Raw, error: *mut c_char, room: usize) -> c_int;
    fn difflow_copy_all(to: *const Raw, from: *const Raw, count: usize, error: *mut c_char, room: usize) -> c_int;
    fn difflow_lerp_all(
        to: *const Raw,
        from: *const Raw,
        count: usize,
        weight: Raw,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_adamw(
        weights: *const Raw,
        gradients: *const Raw,
        first: *const Raw,
        second: *const Raw,
        count: usize,
        step: Raw,
        divisor: Raw,
        skip: Raw,
        lr_there: Raw,
        lr: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        eps: f64,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
}

fn raw(tensor: &Tensor) -> Raw {
    tensor.as_ptr().cast_mut().cast()
}

fn all(tensors: &[Tensor]) -> Vec<Raw> {
    tensors.iter().map(raw).collect()
}

/// ‖·‖₂ over all tensors, an f64 number on their device. Errors if there are none.
pub(crate) fn norm(tensors: &[Tensor]) -> Result<Tensor, ModelError> {
    let (list, mut out) = (all(tensors), std::ptr::null_mut());
    // SAFETY: live tensors; on success `out` is an owned one.
    unsafe {
        checked(|error, room| difflow_norm(list.as_ptr(), list.len(), &raw mut out, error, room))?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// Copies each tensor over the one with the same number, in the type of the latter.
pub(crate) fn copy_all(to: &[Tensor], from: &[Tensor]) -> Result<(), ModelError> {
    let (to, from) = same(all(to), all(from))?;
    // SAFETY: live tensors, as many of each.
    checked(|error, room| unsafe { difflow_copy_all(to.as_ptr(), from.as_ptr(), to.len(), error, room) })
}

/// to ← to + weight · (from − to), with a weight on their device.
pub(crate) fn lerp_all(to: &[Tensor], from: &[Tensor], weight: &Tensor) -> Result<(), ModelError> {
    let (to, from) = same(all(to), all(from))?;
    let weight = raw(weight);
    // SAFETY: live tensors, as many of each.
    checked(|error, room| unsafe { difflow_lerp_all(to.as_ptr(), from.as_ptr(), to.len(), weight, error, room) })
}

/// What an update by AdamW reads on the device: fp32 numbers.
pub(crate) struct Flags<'a> {
    /// Number of this update, from 1.
    pub step: &'a Tensor,
    /// What the gradients are divided by.
    pub divisor: &'a Tensor,
    /// 1 where nothing is to be changed, else 0.
    pub skip: &'a Tensor,
}

/// The learning rate of an update.
pub(crate) enum Rate {
    Here(f64),
    /// An fp32 number on the device: a recorded update has the one of its turn.
    There(Tensor),
}

/// The tensors that an update by AdamW changes, fp32, by parameter.
#[derive(Default)]
pub(crate) struct Trained {
    pub weights: Vec<Tensor>,
    pub gradients: Vec<Tensor>,
    pub first: Vec<Tensor>,
    pub second: Vec<Tensor>,
}

/// One update of all of them with weight decay `decay`.
pub(crate) fn adamw(
    trained: &Trained,
    flags: &Flags,
    settings: AdamW,
    lr: &Rate,
    decay: f64,
) -> Result<(), ModelError> {
    let (weights, gradients) = same(all(&trained.weights), all(&trained.gradients))?;
    let (first, second) = same(all(&trained.first), all(&trained.second))?;
    let (weights, first) = same(weights, first)?;
    if weights.is_empty() {
        return Ok(());
    }
    let (step, divisor, skip) = (raw(flags.step), raw(flags.divisor), raw(flags.skip));
    let AdamW { beta1, beta2, eps, .. } = settings;
    let (w, g, m, v) = (weights.as_ptr(), gradients.as_ptr(), first.as_ptr(), second.as_ptr());
    let (lr_there, lr) = match lr {
        Rate::Here(lr) => (std::ptr::null_mut(), *lr),
        Rate::There(lr) => (raw(lr), 0.0),
    };
    // SAFETY: live tensors, as many of each kind.
    checked(|error, room| unsafe {
        difflow_adamw(
            w,
            g,
            m,
            v,
            weights.len(),
            step,
            divisor,
            skip,
            lr_there,
            lr,
            beta1,
            beta2,
            decay,
            eps,
            error,
            room,
        )
    })
}

fn same(a: Vec<Raw>, b: Vec<Raw>) -> Result<(Vec<Raw>, Vec<Raw>), ModelError> {
    if a.len() == b.len() { Ok((a, b)) } else { Err(ModelError::input("tensors of a list", a.len(), b.len())) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn the_norm_is_over_all_tensors() {
        let found = norm(&[Tensor::from_slice(&[3f32, 0.0]), Tensor::from_slice(&[4f32])]).unwrap();
        assert_eq!((found.kind(), found.double_value(&[])), (Kind::Double, 5.0));
    }

    #[test]
    fn a_skipped_update_changes_nothing() {
        let one = |value: f64| Tensor::full([2], value, (Kind::Float, Device::Cpu));
        let number = |value: f64| Tensor::full([] as [i64; 0], value, (Kind::Float, Device::Cpu));
        for skip in [0.0, 1.0] {
            let trained = Trained {
                weights: vec![one(1.0)],
                gradients: vec![one(4.0)],
                first: vec![one(0.0)],
                second: vec![one(0.0)],
            };
            let flags = Flags { step: &number(1.0), divisor: &number(2.0), skip: &number(skip) };
            adamw(&trained, &flags, AdamW::default(), &Rate::Here(0.1), 0.5).unwrap();
            // 1 − lr · decay − lr · g/|g|, with g = 4/2.
            let (weight, first) = if skip == 1.0 { (1.0, 0.0) } else { (1.0 - 0.05 - 0.1, 0.2) };
            let found = [&trained.weights[0], &trained.first[0]].map(|tensor| tensor.double_value(&[0]));
            assert!((found[0] - weight).abs() < 1e-6 && (found[1] - first).abs() < 1e-6, "{found:?}");
        }
    }
}
