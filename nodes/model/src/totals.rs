//! What the micro-steps of an update add up to beside the gradients.

use std::ops::{Deref, DerefMut};

use crate::step_sums::{self, Sums};

/// The numbers of [`Totals::told`].
pub(crate) const NUMBERS: usize = step_sums::NUMBERS + 1;

/// What the micro-steps of an update add up to, in one process or in all that train the model; the fields of the sums can be read as its own.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    pub micro_batches: u64,
    /// Positions that are not padding.
    pub tokens: u64,
    pub sums: Sums,
}

impl Deref for Totals {
    type Target = Sums;

    fn deref(&self) -> &Sums {
        &self.sums
    }
}

impl DerefMut for Totals {
    fn deref_mut(&mut self) -> &mut Sums {
        &mut self.sums
    }
}

impl Totals {
    /// Those of a micro-batch with `tokens` positions that are not padding.
    pub(crate) fn of(sums: Sums, tokens: u64) -> Self {
        Self { micro_batches: 1, tokens, sums }
    }

    /// Adds up those of micro-batches, in their order.
    pub(crate) fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |mut sum, one| {
            sum.micro_batches += one.micro_batches;
            sum.tokens += one.tokens;
            sum.sums += one.sums;
            sum
        })
    }

    /// What one process tells others of a micro-batch.
    pub(crate) fn told(&self) -> [f64; NUMBERS] {
        let mut told = [self.tokens as f64; NUMBERS];
        told[1..].copy_from_slice(&self.sums.numbers());
        told
    }

    /// Those of a micro-batch of which [`Totals::told`] was told.
    pub(crate) fn heard(told: [f64; NUMBERS]) -> Self {
        let [tokens, sums @ ..] = told;
        Self::of(Sums::of_numbers(sums), tokens as u64)
    }
}
