//! What the micro-steps of an update add up to beside the gradients.

use crate::loss::StepSums;

/// The numbers of [`Totals::told`].
pub(crate) const NUMBERS: usize = 12;

/// What the micro-steps of an update add up to: in one process, or in all that train the model.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    pub micro_batches: u64,
    /// Σ loss weight · cross-entropy, in nats.
    pub weighted: f64,
    /// Σ cross-entropy, in nats.
    pub unweighted: f64,
    /// Positions that carried loss.
    pub positions: u64,
    /// Maskable positions.
    pub maskable: u64,
    /// Σ cross-entropy of the next tokens of the clean texts, in nats, where the objective has an AR loss beside it.
    pub ar: f64,
    /// Next tokens that it is of.
    pub ar_positions: u64,
    /// Σ distance to the base model's hidden states, where the model is aligned with it.
    pub distance: f64,
    /// Predicted tokens that it is of.
    pub aligned: u64,
    /// Σ load-balancing loss of the routers · `balanced`, where it is beside the objective.
    pub balance: f64,
    /// What the objective is divided by, of the forwards that it is of.
    pub balanced: u64,
    /// Positions that are not padding.
    pub tokens: u64,
    /// Positions that the forwards read, without padding: a text with a clean one beside it counts twice.
    pub positions_read: u64,
}

impl Totals {
    /// Those of a micro-batch with `tokens` positions that are not padding.
    pub(crate) fn of(sums: &StepSums, tokens: u64) -> Self {
        Self {
            micro_batches: 1,
            weighted: sums.weighted,
            unweighted: sums.unweighted,
            positions: sums.positions,
            maskable: sums.maskable,
            ar: sums.ar,
            ar_positions: sums.ar_positions,
            distance: sums.distance,
            aligned: sums.aligned,
            balance: sums.balance,
            balanced: sums.balanced,
            tokens,
            positions_read: sums.positions_read,
        }
    }

    /// Adds up those of micro-batches, in their order.
    pub(crate) fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |mut sum, one| {
            sum.micro_batches += one.micro_batches;
            sum.weighted += one.weighted;
            sum.unweighted += one.unweighted;
            sum.positions += one.positions;
            sum.maskable += one.maskable;
            sum.ar += one.ar;
            sum.ar_positions += one.ar_positions;
            sum.distance += one.distance;
            sum.aligned += one.aligned;
            sum.balance += one.balance;
            sum.balanced += one.balanced;
            sum.tokens += one.tokens;
            sum.positions_read += one.positions_read;
            sum
        })
    }

    /// False when a loss was NaN or infinite.
    pub(crate) fn is_finite(&self) -> bool {
        [self.weighted, self.unweighted, self.ar, self.distance, self.balance].iter().all(|sum| sum.is_finite())
    }

    /// What one process tells others of a micro-batch; every count is far below 2⁵³.
    pub(crate) fn told(&self) -> [f64; NUMBERS] {
        [
            self.weighted,
            self.unweighted,
            self.positions as f64,
            self.maskable as f64,
            self.ar,
            self.ar_positions as f64,
            self.distance,
            self.aligned as f64,
            self.tokens as f64,
            self.positions_read as f64,
            self.balance,
            self.balanced as f64,
        ]
    }

    /// Those of a micro-batch of which [`Totals::told`] was told.
    pub(crate) fn heard(told: &[f64]) -> Self {
        Self {
            micro_batches: 1,
            weighted: told[0],
            unweighted: told[1],
            positions: told[2] as u64,
            maskable: told[3] as u64,
            ar: told[4],
            ar_positions: told[5] as u64,
            distance: told[6],
            aligned: told[7] as u64,
            tokens: told[8] as u64,
            positions_read: told[9] as u64,
            balance: told[10],
            balanced: told[11] as u64,
        }
    }
}
