//! Which positions see which: attention patterns, their restriction to documents, and the kernel that fits.
//!
//! A causal or full pattern runs on the fused kernel without a bias. Everything else is an additive bias of 0 and −∞. The
//! diagonal is visible in every pattern, so no row of the softmax is empty and padding never gives NaN.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use difflow_diffusion::keyed;
use rand::Rng;
use tch::{Kind, Tensor};

use crate::batch::PADDING;
use crate::error::ModelError;
use crate::kernel::attention::Visibility;

/// An attention pattern over a sequence of L tokens: `visible(i, j)` says whether position i attends to position j.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// j ≤ i.
    Causal,
    /// Everything.
    Full,
    /// j ≤ i, or with probability `ratio`: one L×L draw shared by batch, heads and layers, addressed by `seed` and `draw`
    /// (the micro-step), so that every forward of training has its own. Method: attention-mask annealing.
    Annealed { ratio: f64, seed: u64, draw: u64 },
    /// j ≤ i + `right`: a growing window to the right.
    Band { right: usize },
    /// j is in the block of i or an earlier one; blocks have `size` positions.
    Block { size: usize },
    /// `visible[i * L + j]`; the diagonal is visible whatever it says.
    Explicit { visible: Arc<[bool]> },
}

impl Pattern {
    /// The pattern itself where it is one of the two that need no bias.
    fn simple(&self, length: usize) -> Option<Kernel> {
        match *self {
            Self::Causal => Some(Kernel::Causal),
            Self::Full => Some(Kernel::Full),
            Self::Annealed { ratio, .. } if ratio <= 0.0 => Some(Kernel::Causal),
            Self::Annealed { ratio, .. } if ratio >= 1.0 => Some(Kernel::Full),
            Self::Band { right: 0 } | Self::Block { size: 0 | 1 } => Some(Kernel::Causal),
            Self::Band { right } if right + 1 >= length => Some(Kernel::Full),
            Self::Block { size } if size >= length => Some(Kernel::Full),
            _ => None,
        }
    }

    /// The pattern as `[L, L]` booleans, row i the query. Errors when an explicit pattern has another size.
    pub fn visible(&self, length: usize) -> Result<Vec<bool>, ModelError> {
        let mut visible = vec![false; length * length];
        let mut fill = |reach: &dyn Fn(usize) -> usize| {
            for (i, row) in visible.chunks_mut(length.max(1)).enumerate() {
                row[..reach(i).min(length)].fill(true);
            }
        };
        match self {
            Self::Causal => fill(&|i| i + 1),
            Self::Full => fill(&|_| length),
            Self::Band { right } => fill(&|i| i.saturating_add(right + 1)),
            Self::Block { size } => fill(&|i| (i / (*size).max(1) + 1).saturating_mul((*size).max(1))),
            Self::Annealed { ratio, seed, draw } => {
                fill(&|i| i + 1);
                // 32 random bits a pair: the ratio is met to 2⁻³².
                let below = (ratio.clamp(0.0, 1.0) * 2f64.powi(32)) as u64;
                let mut rng = keyed::rng(*seed, "attention", *draw, 0);
                for i in 0..length {
                    for pair in &mut visible[i * length + i + 1..(i + 1) * length] {
                        *pair = u64::from(rng.next_u32()) < below;
                    }
                }
            }
            Self::Explicit { visible: given } => {
                if given.len() != length * length {
                    let wanted = format!("{} ({length} × {length})", length * length);
                    return Err(ModelError::input("explicit attention pattern", given.len(), wanted));
                }
                visible.copy_from_slice(given);
                (0..length).for_each(|i| visible[i * length + i] = true);
            }
        }
        Ok(visible)
    }
}

/// What the fused kernel is asked for.
#[derive(Debug)]
pub(crate) enum Kernel {
    Causal,
    Full,
    /// Additive bias, `[1 or B, 1, L, L]`.
    Bias(Tensor),
    /// Our own kernel on the CPU.
    Fused(Arc<Visibility>),
}

impl Kernel {
    /// The same, without a copy of the bias.
    pub fn share(&self) -> Self {
        match self {
            Self::Causal => Self::Causal,
            Self::Full => Self::Full,
            Self::Bias(bias) => Self::Bias(bias.shallow_clone()),
            Self::Fused(visibility) => Self::Fused(visibility.clone()),
        }
    }
}

/// Where attention is computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub kind: Kind,
    pub device: tch::Device,
    /// Whether our own CPU kernel may be used.
    pub fused: bool,
}

/// A pattern made ready for one batch.
#[derive(Debug)]
pub(crate) struct Attention {
    pub kernel: Kernel,
}

impl Attention {
    /// `documents` is `[rows · length]`, or `None` when attention crosses documents. `window` is the reach of causal
    /// sliding-window attention, applied to what lies to the left.
    pub fn new(
        pattern: &Pattern,
        (rows, length): (usize, usize),
        documents: Option<&[u32]>,
        window: Option<usize>,
        target: Target,
    ) -> Result<Self, ModelError> {
        let simple = pattern.simple(length);
        let documents = documents.filter(|d| restricts(d, length, matches!(simple, Some(Kernel::Causal))));
        let window = window.filter(|&window| window < length);
        let runs = documents.map(|documents| runs(documents, length));
        if target.fused && !matches!(runs, Some(None)) {
            let (causal, bits) = match (&simple, window) {
                (Some(kernel), None) => (matches!(kernel, Kernel::Causal), None),
                _ => (false, Some(Visibility::pack(&windowed(pattern, length, window)?, length))),
            };
            return Ok(Self {
                kernel: Kernel::Fused(Arc::new(Visibility { causal, bits, documents: runs.flatten() })),
            });
        }
        if let (Some(kernel), None, None) = (simple, documents, window) {
            return Ok(Self { kernel });
        }
        let visible = windowed(pattern, length, window)?;
        let side = length as i64;
        let shared = Tensor::f_from_slice(&visible)?.f_view((1, 1, side, side))?.f_to_device(target.device)?;
        let visible = match documents {
            None => shared,
            Some(documents) => {
                let ids: Vec<i64> = documents.iter().map(|&id| i64::from(id)).collect();
                let ids = Tensor::f_from_slice(&ids)?.f_to_device(target.device)?;
                let query = ids.f_view((rows as i64, 1, side, 1))?;
                let key = ids.f_view((rows as i64, 1, 1, side))?;
                query.f_eq_tensor(&key)?.f_logical_and(&shared)?
            }
        };
        Ok(Self { kernel: Kernel::Bias(additive(&visible, target.kind)?) })
    }
}

/// The pattern, without what lies `window` or more to the left.
fn windowed(pattern: &Pattern, length: usize, window: Option<usize>) -> Result<Vec<bool>, ModelError> {
    let mut visible = pattern.visible(length)?;
    for i in window.unwrap_or(length)..length {
        visible[i * length..i * length + i + 1 - window.unwrap_or(length)].fill(false);
    }
    Ok(visible)
}

/// For each position, the stretch of its row with its document id. `None` when an id (other than padding) comes back after
/// another one: attention by id is then no stretch.
fn runs(documents: &[u32], length: usize) -> Option<Vec<Range<u32>>> {
    let mut all = Vec::with_capacity(documents.len());
    for row in documents.chunks(length.max(1)) {
        let mut seen = HashSet::new();
        let mut start = 0;
        for stretch in row.chunk_by(|a, b| a == b) {
            if stretch[0] != PADDING && !seen.insert(stretch[0]) {
                return None;
            }
            let end = start + stretch.len() as u32;
            all.extend(stretch.iter().map(|_| start..end));
            start = end;
        }
    }
    Some(all)
}

/// 0 where visible, −∞ elsewhere. On CUDA the rows are laid out in steps of 8, which the memory-efficient kernel wants.
pub(crate) fn additive(visible: &Tensor, kind: Kind) -> Result<Tensor, ModelError> {
    let mut size = visible.size();
    let columns = size[3];
    if visible.device().is_cuda() {
        size[3] = (columns + 7) / 8 * 8;
    }
    let bias = Tensor::f_zeros(&size, (kind, visible.device()))?.f_narrow(3, 0, columns)?;
    let hidden = visible.f_logical_not()?;
    let mut view = bias.shallow_clone();
    let _ = view.f_masked_fill_(&hidden, f64::NEG_INFINITY)?;
    Ok(bias)
}

/// Whether document ids change anything. A row of one document never does; under a causal pattern neither does padding to
/// the right, because no real token looks there.
fn restricts(documents: &[u32], length: usize, causal: bool) -> bool {
    documents
        .chunks(length.max(1))
        .any(|row| row.windows(2).any(|pair| pair[0] != pair[1] && !(causal && pair[1] == PADDING)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fraction(pattern: &Pattern, length: usize) -> f64 {
        let visible = pattern.visible(length).unwrap();
        visible.iter().filter(|&&v| v).count() as f64 / visible.len() as f64
    }

    /// method.md: visible fraction = ½(1+1/L) + r·½(1−1/L).
    #[test]
    fn annealed_fraction_follows_the_ratio() {
        let length = 256;
        for ratio in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let l = length as f64;
            let wanted = 0.5 * (1.0 + 1.0 / l) + ratio * 0.5 * (1.0 - 1.0 / l);
            let found = fraction(&Pattern::Annealed { ratio, seed: 3, draw: 1 }, length);
            assert!((found - wanted).abs() < 0.006, "ratio {ratio}: {found} {wanted}");
        }
    }

    #[test]
    fn every_draw_is_fresh_and_repeatable() {
        let at = |draw| Pattern::Annealed { ratio: 0.5, seed: 3, draw }.visible(32).unwrap();
        assert_eq!(at(1), at(1));
        assert_ne!(at(1), at(2));
    }

    #[test]
    fn band_and_block_grow_from_causal_to_full() {
        assert_eq!(Pattern::Band { right: 0 }.visible(5).unwrap(), Pattern::Causal.visible(5).unwrap());
        assert_eq!(Pattern::Band { right: 4 }.visible(5).unwrap(), Pattern::Full.visible(5).unwrap());
        assert_eq!(Pattern::Block { size: 1 }.visible(5).unwrap(), Pattern::Causal.visible(5).unwrap());
        let block = Pattern::Block { size: 2 }.visible(5).unwrap();
        assert_eq!(block[..5], [true, true, false, false, false]);
        assert_eq!(block[10..15], [true, true, true, true, false]);
    }

    #[test]
    fn right_padding_needs_no_bias_under_a_causal_pattern_and_one_under_a_full_pattern() {
        let documents = [0, 0, PADDING, PADDING];
        let target = Target { kind: Kind::Float, device: tch::Device::Cpu, fused: false };
        let kernel =
            |pattern: Pattern| Attention::new(&pattern, (1, 4), Some(&documents), None, target).unwrap().kernel;
        assert!(matches!(kernel(Pattern::Causal), Kernel::Causal));
        assert!(matches!(kernel(Pattern::Full), Kernel::Bias(_)));
    }
}
