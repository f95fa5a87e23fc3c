//! Attention patterns: which positions of a sequence see which, before documents and windows.

use std::ops::Range;
use std::sync::Arc;

use difflow_diffusion::keyed;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::input::{Copies, Layout};
use crate::visibility::{Bits, Visibility};

/// An attention pattern over a sequence of L tokens: whether position i attends to position j.
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
    /// Of an input `[x_t ; x_0]`, in blocks of `size` positions counted from the first of the document. A noised position sees its own
    /// block of x_t and the earlier blocks of x_0; a clean one never sees x_t, and of x_0 what `context` says.
    NoisedBlocks { size: usize, context: Context },
}

/// What a clean position sees of the clean text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Context {
    /// Its block and those before it.
    Block,
    /// Itself and what is before it, as in the base model.
    #[default]
    Causal,
}

/// One of the two texts of `[x_t ; x_0]`. A text that stands once counts as noised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Noised,
    Clean,
}

/// A query: its part of the input and its position, and the first position of its document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query {
    pub part: Part,
    pub position: usize,
    pub document_start: usize,
}

impl Pattern {
    /// The same pattern in the simplest form for a sequence of `length`: with ratios and sizes at an end, causal or full.
    pub(crate) fn simple(&self, length: usize) -> Self {
        match *self {
            Self::Annealed { ratio, .. } if ratio <= 0.0 => Self::Causal,
            Self::Annealed { ratio, .. } if ratio >= 1.0 => Self::Full,
            Self::Band { right: 0 } | Self::Block { size: 0 | 1 } => Self::Causal,
            Self::Band { right } if right.saturating_add(1) >= length => Self::Full,
            Self::Block { size } if size >= length => Self::Full,
            _ => self.clone(),
        }
    }

    /// How often the text stands in the input that it is a pattern of.
    pub(crate) fn copies(&self) -> Copies {
        match self {
            Self::NoisedBlocks { .. } => Copies::NoisedAndClean,
            _ => Copies::One,
        }
    }

    /// The positions of a part that a query may see, without those that [`Pattern::bits`] hide.
    pub(crate) fn reach(&self, query: Query, of: Part, text: usize) -> Range<usize> {
        let i = query.position;
        let end_of_block =
            |size: usize, start: usize| (((i - start) / size + 1).saturating_mul(size)).saturating_add(start);
        if let Self::NoisedBlocks { size, context } = *self {
            let (size, start) = (size.max(1), query.document_start);
            let end = end_of_block(size, start);
            return match (query.part, of) {
                (Part::Noised, Part::Noised) => end - size..end.min(text),
                (Part::Noised, Part::Clean) => 0..end - size,
                (Part::Clean, Part::Noised) => 0..0,
                (Part::Clean, Part::Clean) => 0..if context == Context::Causal { i + 1 } else { end.min(text) },
            };
        }
        let end = match *self {
            Self::Causal => i + 1,
            Self::Band { right } => i.saturating_add(right).saturating_add(1),
            Self::Block { size } => end_of_block(size.max(1), 0),
            _ => text,
        };
        0..end.min(text)
    }

    /// Which pairs of one copy are visible, for patterns that are not stretches of positions. Errors when an explicit pattern has
    /// another size.
    pub(crate) fn bits(&self, length: usize) -> Result<Option<Bits>, ModelError> {
        match self {
            Self::Annealed { ratio, seed, draw } => {
                let mut bits = Bits::hidden(length);
                // 32 random bits a pair: the ratio is met to 2⁻³².
                let below = (ratio.clamp(0.0, 1.0) * 2f64.powi(32)) as u64;
                let mut rng = keyed::rng(*seed, "attention", *draw, 0);
                for i in 0..length {
                    bits.show(i, 0..i + 1);
                    for j in i + 1..length {
                        if u64::from(rng.next_u32()) < below {
                            bits.show(i, j..j + 1);
                        }
                    }
                }
                Ok(Some(bits))
            }
            Self::Explicit { visible } => {
                if visible.len() != length * length {
                    let wanted = format!("{} ({length} × {length})", length * length);
                    return Err(ModelError::input("explicit attention pattern", visible.len(), wanted));
                }
                let mut bits = Bits::hidden(length);
                for (i, row) in visible.chunks(length.max(1)).enumerate() {
                    (0..length).filter(|&j| row[j] || i == j).for_each(|j| bits.show(i, j..j + 1));
                }
                Ok(Some(bits))
            }
            _ => Ok(None),
        }
    }

    /// The pattern as `[L, L]` booleans, row i the query, for an input of L tokens. Errors if an explicit pattern has another size.
    pub fn visible(&self, length: usize) -> Result<Vec<bool>, ModelError> {
        let copies = self.copies();
        let layout = Layout { copies, ..Layout::row(length / copies.count()) };
        let visibility = Visibility::new(self, layout, None)?;
        let length = layout.length();
        let pairs = (0..length).flat_map(|i| (0..length).map(move |j| (i, j)));
        Ok(pairs.map(|(i, j)| visibility.sees(0, i, j)).collect())
    }
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
}
