//! Sums over what a micro-batch predicts.

use std::array::from_fn;
use std::ops::{AddAssign, Deref, DerefMut};

use crate::batch::MicroBatch;
use crate::objective::Selection;

/// The numbers of [`Sums::numbers`].
pub(crate) const NUMBERS: usize = 11;

/// Sums of losses, in nats, and of what they are of. Divide by a number of tokens of the caller's choice.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sums {
    /// Σ loss weight · cross-entropy.
    pub weighted: f64,
    /// Σ cross-entropy.
    pub unweighted: f64,
    /// Positions that carried loss.
    pub positions: u64,
    /// Maskable positions of the batch.
    pub maskable: u64,
    /// Σ cross-entropy of the next tokens of the clean texts, where the objective has an AR loss beside it; its weight is not in it.
    pub ar: f64,
    /// Next tokens that it is of.
    pub ar_positions: u64,
    /// Σ distance to the base model's hidden states, where the model is aligned with it; its weight is not in it.
    pub distance: f64,
    /// Predicted tokens that it is of.
    pub aligned: u64,
    /// Σ load-balancing loss of the routers · `balanced`, where the objective has it beside it; its weight is not in it.
    pub balance: f64,
    /// What the objective is divided by, of the forwards that it is of: maskable positions, or those that carried loss.
    pub balanced: u64,
    /// Positions that the forwards read, without padding: a text with a clean one beside it counts twice.
    pub positions_read: u64,
}

/// Sums over one sequence, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowSums {
    pub weighted: f64,
    pub unweighted: f64,
    pub positions: u64,
    pub maskable: u64,
}

/// Sums over one micro-batch, whose fields can be read as its own, and over each of its sequences.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepSums {
    pub sums: Sums,
    pub rows: Vec<RowSums>,
}

impl Deref for StepSums {
    type Target = Sums;

    fn deref(&self) -> &Sums {
        &self.sums
    }
}

impl DerefMut for StepSums {
    fn deref_mut(&mut self) -> &mut Sums {
        &mut self.sums
    }
}

impl Sums {
    /// False when a loss was NaN or infinite.
    pub fn is_finite(&self) -> bool {
        [self.weighted, self.unweighted, self.ar, self.distance, self.balance].iter().all(|sum| sum.is_finite())
    }

    /// Adds the losses that another has, without what they are of.
    pub(crate) fn add_losses(&mut self, other: &Self) {
        self.weighted += other.weighted;
        self.unweighted += other.unweighted;
        self.ar += other.ar;
        self.distance += other.distance;
        self.balance += other.balance;
    }

    /// Counts the positions of a forward, whose losses are not known yet.
    pub(crate) fn count(&mut self, selection: &Selection) {
        self.positions += selection.own as u64;
        self.ar_positions += (selection.target.len() - selection.own) as u64;
    }

    /// All of them; a count is far below 2⁵³.
    pub(crate) fn numbers(&self) -> [f64; NUMBERS] {
        [
            self.weighted,
            self.unweighted,
            self.positions as f64,
            self.maskable as f64,
            self.ar,
            self.ar_positions as f64,
            self.distance,
            self.aligned as f64,
            self.balance,
            self.balanced as f64,
            self.positions_read as f64,
        ]
    }

    /// Those whose [`Sums::numbers`] these are.
    pub(crate) fn of_numbers(numbers: [f64; NUMBERS]) -> Self {
        let [
            weighted,
            unweighted,
            positions,
            maskable,
            ar,
            ar_positions,
            distance,
            aligned,
            balance,
            balanced,
            positions_read,
        ] = numbers;
        Self {
            weighted,
            unweighted,
            positions: positions as u64,
            maskable: maskable as u64,
            ar,
            ar_positions: ar_positions as u64,
            distance,
            aligned: aligned as u64,
            balance,
            balanced: balanced as u64,
            positions_read: positions_read as u64,
        }
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        let (own, others) = (self.numbers(), other.numbers());
        *self = Self::of_numbers(from_fn(|at| own[at] + others[at]));
    }
}

impl StepSums {
    /// Of a batch that nothing has been predicted of.
    pub(crate) fn of(batch: &MicroBatch) -> Self {
        let maskable = |row: &[bool]| row.iter().filter(|&&maskable| maskable).count() as u64;
        let row = |row| RowSums { maskable: maskable(row), ..RowSums::default() };
        Self { sums: Sums::default(), rows: batch.maskable.chunks(batch.length).map(row).collect() }
    }

    /// What is known of all sequences before anything is predicted.
    pub(crate) fn counted(&self) -> Sums {
        Sums { maskable: self.rows.iter().map(|row| row.maskable).sum(), ..self.sums }
    }

    /// Adds the losses of a part. f64 and in row-major order: the same losses give the same sums.
    pub(crate) fn add(&mut self, rows: &[usize], selection: &Selection, losses: &[f32]) {
        let Selection { row, weight, own, .. } = selection;
        for ((&row, &weight), &loss) in row.iter().zip(weight).zip(losses).take(*own) {
            let row = &mut self.rows[rows[row]];
            row.weighted += weight * f64::from(loss);
            row.unweighted += f64::from(loss);
            row.positions += 1;
        }
        for &loss in &losses[*own..] {
            self.sums.ar += f64::from(loss);
            self.sums.ar_positions += 1;
        }
    }

    /// With the sums of the rows added up.
    pub(crate) fn totalled(mut self) -> Self {
        for row in &self.rows {
            self.sums.weighted += row.weighted;
            self.sums.unweighted += row.unweighted;
            self.sums.positions += row.positions;
            self.sums.maskable += row.maskable;
        }
        self
    }
}
