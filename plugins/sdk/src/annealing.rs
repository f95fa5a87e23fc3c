//! Kind: annealing schedule.

use crate::abi::{self, Status};
use crate::{Component, Error, instance};

/// How attention goes from causal to full over optimizer steps. Called from several threads.
pub trait AnnealingSchedule: Component + Sync {
    /// True when [`attn_mask`](Self::attn_mask) draws whole patterns; false lets the host open each future position with the
    /// probability of the ratio.
    const WHOLE_PATTERN: bool = false;

    /// 0 is causal, 1 full; reaches 1 and stays there. `step` counts from 0.
    fn attn_mask_ratio(&self, step: u64) -> f64;

    /// A whole pattern, `visible[i * seq_len + j]`; it comes in causal (j ≤ i open) and may only be opened further. Asked while the
    /// ratio is between 0 and 1. `seed` differs from forward to forward.
    fn attn_mask(&self, step: u64, seed: u64, seq_len: usize, visible: &mut [bool]) {
        _ = (step, seed, seq_len, visible);
    }
}

/// The table of `T`.
pub fn table<T: AnnealingSchedule>() -> &'static abi::AnnealingSchedule {
    const {
        &abi::AnnealingSchedule {
            struct_size: size_of::<abi::AnnealingSchedule>() as u32,
            attn_mask_ratio: Some(attn_mask_ratio::<T>),
            attn_mask: if T::WHOLE_PATTERN { Some(attn_mask::<T>) } else { None },
        }
    }
}

/// # Safety
/// As the header says of `attn_mask_ratio`.
unsafe extern "C-unwind" fn attn_mask_ratio<T: AnnealingSchedule>(
    instance: *const abi::Instance,
    step: u64,
    out: *mut f64,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call(instance, error, |schedule: &T, _| {
            *out = schedule.attn_mask_ratio(step);
            Ok(())
        })
    }
}

/// # Safety
/// As the header says of `attn_mask`.
unsafe extern "C-unwind" fn attn_mask<T: AnnealingSchedule>(
    instance: *const abi::Instance,
    step: u64,
    seed: u64,
    seq_len: u32,
    out: *mut u8,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: `out` holds seq_len² bytes, by the header's contract.
    unsafe {
        instance::call(instance, error, |schedule: &T, _| {
            let length = seq_len as usize;
            if out.is_null() {
                return Err(Error::argument("the pattern is NULL"));
            }
            let mut visible: Vec<bool> = (0..length * length).map(|at| at % length <= at / length).collect();
            schedule.attn_mask(step, seed, length, &mut visible);
            for (at, open) in visible.into_iter().enumerate() {
                *out.add(at) = u8::from(open);
            }
            Ok(())
        })
    }
}
