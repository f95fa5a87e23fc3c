//! The numbers that an optimizer keeps: in fp32, or in bf16 for half the memory.
//!
//! A moving average in bf16 stands still when it is rounded to the nearest value: one step of β₂ = 0.999 changes it by a thousandth, and
//! neighbours are four to eight thousandths apart. So it is rounded at random, up or down, with the probability that makes it right in the
//! mean. The draws are keyed: the same update gives the same bits.

use difflow_diffusion::keyed;
use rand::Rng;
use tch::{Kind, Tensor};

use crate::error::ModelError;

/// How an optimizer's state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateKind {
    #[default]
    Fp32,
    Bf16,
}

impl StateKind {
    pub(super) fn torch(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Fp32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Key of the draws of one parameter's update.
#[derive(Clone, Copy)]
pub(super) struct Noise {
    pub step: u64,
    pub parameter: u64,
    /// The parameter's element that comes first.
    pub first: u64,
}

/// What the elements of a tensor draw.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    /// A number below 2¹⁶ for the tensor.
    value: i64,
    /// The parameter's element that comes first.
    first: i64,
}

impl Noise {
    /// That of one of its tensors.
    pub fn of(self, tensor: &str) -> Draw {
        let value = (keyed::rng(0, tensor, self.step, self.parameter).next_u64() >> 48) as i64;
        Draw { value, first: self.first as i64 }
    }
}

/// A state's values, to be computed with: the state itself where it is fp32, so that writing to it changes the state.
pub(super) fn fp32(state: &Tensor) -> Result<Tensor, ModelError> {
    Ok(state.f_to_kind(Kind::Float)?)
}

/// Stores what [`fp32`] gave and was computed with.
pub(super) fn store(state: &mut Tensor, values: &Tensor, draw: Draw) -> Result<(), ModelError> {
    if state.kind() == Kind::Float {
        return Ok(());
    }
    // The upper half of an fp32 number is a bf16 number; a lower half drawn evenly and added carries with the probability wanted. One draw
    // serves a tensor: its elements are moved on by different amounts, and each is even over the steps.
    let lower = (1i64 << 16) - 1;
    // Only the lower bits of an element's place count.
    let first = draw.first & lower;
    let place = Tensor::f_arange_start(first, first + values.numel() as i64, (Kind::Int, values.device()))?;
    let place = place.f_bitwise_and(lower)?;
    let noise = place.f_mul_scalar(GOLDEN)?.f_add_scalar_(draw.value)?.f_bitwise_and_(lower)?.f_view_as(values)?;
    let bits = values.f_contiguous()?.f_view_dtype(Kind::Int)?.f_add(&noise)?.f_bitwise_and_(!lower)?;
    state.f_copy_(&bits.f_view_dtype(Kind::Float)?)?;
    Ok(())
}

/// 2¹⁶ divided by the golden ratio's square, and odd: its multiples are spread evenly. Times 2¹⁶ it is less than 2³¹.
const GOLDEN: i64 = 25_033;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Rounded to the nearest value, 1 with 0.999 of it kept and nothing added stays 1 for ever.
    #[test]
    fn a_moving_average_in_bf16_moves() {
        let mut state = Tensor::ones([64, 64], (Kind::BFloat16, tch::Device::Cpu));
        for step in 0..1000 {
            let values = fp32(&state).unwrap() * 0.999;
            store(&mut state, &values, Noise { step, parameter: 3, first: 0 }.of("v")).unwrap();
        }
        let mean = state.to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
        assert!((mean / 0.999f64.powi(1000) - 1.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn what_bf16_can_hold_is_kept_and_the_same_key_rounds_alike() {
        let exact = Tensor::from_slice(&[0f32, -0.0, 1.5, -2.25, 1e-30]).to_kind(Kind::BFloat16);
        let round = |values: &Tensor, parameter| {
            let mut state = values.zeros_like().to_kind(Kind::BFloat16);
            store(&mut state, values, Noise { step: 1, parameter, first: 0 }.of("m")).unwrap();
            state
        };
        assert_eq!(round(&exact.to_kind(Kind::Float), 0), exact);
        let values = Tensor::full([1000], 1.001f64, (Kind::Float, tch::Device::Cpu));
        assert_eq!(round(&values, 0), round(&values, 0));
        assert_ne!(round(&values, 0), round(&values, 1));
    }
}
