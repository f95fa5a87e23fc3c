//! The scores of attention: scaled, and with a soft cap where a model has one.

use std::ops::Range;

use crate::kernel::simd::Simd;

/// What becomes of query · key before anything is hidden.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scores {
    /// It is multiplied by this,
    pub scale: f32,
    /// and then s becomes cap · tanh(s / cap).
    pub cap: Option<f32>,
}

impl Scores {
    /// Caps scores that were scaled.
    ///
    /// # Safety
    /// The tiles are whole vectors inside `scores`; and the instruction set.
    #[inline(always)]
    pub(super) unsafe fn cap<S: Simd>(self, tiles: &[Range<usize>], scores: &mut [f32]) {
        let Some(cap) = self.cap else { return };
        for tile in tiles {
            for j in tile.clone().step_by(S::LANES) {
                // SAFETY: the caller's.
                unsafe {
                    let at = scores.as_mut_ptr().add(j);
                    S::load(at).mul(S::splat(1.0 / cap)).tanh().mul(S::splat(cap)).store(at);
                }
            }
        }
    }

    /// The slope of capped scores, 1 − (s / cap)².
    ///
    /// # Safety
    /// The tiles are whole vectors inside both arrays; and the instruction set.
    #[inline(always)]
    pub(super) unsafe fn slope<S: Simd>(tiles: &[Range<usize>], scores: &[f32], cap: f32, to: &mut [f32]) {
        for j in tiles.iter().flat_map(|tile| tile.clone().step_by(S::LANES)) {
            // SAFETY: the caller's.
            unsafe {
                let share = S::load(scores.as_ptr().add(j)).mul(S::splat(1.0 / cap));
                S::splat(1.0).sub(share.mul(share)).store(to.as_mut_ptr().add(j));
            }
        }
    }
}
