//! Several processes that train one model: each has a part of an update's micro-batches, and all of them end with the same sum of the
//! gradients, the same totals, and so the same weights. They are the bytes that one process with all micro-batches ends with.
//!
//! Rank r has the micro-batches from r · n to (r + 1) · n − 1. Where n is a power of two, their sum is a node of the tree of the `sum` module,
//! and the sum over the ranks is the rest of that tree. Each rank adds a share of all parameters: `all_to_all` brings it the same share of
//! every rank, and it gives the sum to all.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;
use crate::group::{Group, Place};
use crate::parameter::Parameter;
use crate::reducer::{Reducer, Totals};
use crate::shim::set_gradient;
use crate::sum::Tree;

/// Returns the numbers of ranks that can share so many micro-batches of an update and add their gradients in the same tree.
pub fn allowed_ranks(micro_batches: u64) -> Vec<u64> {
    let fits = |ranks: &u64| {
        *ranks == 1 || (micro_batches.is_multiple_of(*ranks) && (micro_batches / ranks).is_power_of_two())
    };
    (1..=micro_batches).filter(fits).collect()
}

/// The numbers of a micro-batch's [`Totals`].
const NUMBERS: usize = 10;

/// This process among them.
#[derive(Debug)]
pub(crate) struct Ranks {
    group: Arc<Group>,
    /// Micro-batches of this rank in an update.
    micro_batches: u64,
    /// All gradients, one behind the other and padded, and this rank's share of those of every rank: kept from update to update.
    flat: Tensor,
    pieces: Tensor,
}

impl Ranks {
    pub fn new(group: Arc<Group>, micro_batches: u64, parameters: &[Parameter]) -> Self {
        let size = group.place().size;
        let count: usize = parameters.iter().filter(|p| p.trainable).map(|p| p.tensor.numel()).sum();
        let padded = (count.div_ceil(size) * size) as i64;
        let empty = || Tensor::zeros([padded], (Kind::Float, Device::Cpu));
        Self { group, micro_batches, flat: empty(), pieces: empty() }
    }

    /// The sum over all ranks, from what is in `flat` to there.
    fn sum(&mut self) -> Result<(), ModelError> {
        let Place { rank, size } = self.group.place();
        self.group.all_to_all(&mut self.pieces, &self.flat)?;
        let mut tree = Tree::default();
        for piece in self.pieces.f_chunk(size as i64, 0)? {
            tree.push(vec![piece])?;
        }
        let sum = tree.take()?.unwrap_or_default();
        for (number, mut share) in self.flat.f_chunk(size as i64, 0)?.into_iter().enumerate() {
            if let Some(sum) = sum.first().filter(|_| number == rank) {
                share.f_copy_(sum)?;
            }
            self.group.broadcast(&mut share, number)?;
        }
        Ok(())
    }
}

impl Reducer for Ranks {
    fn number(&self, own: u64) -> u64 {
        self.group.place().rank as u64 * self.micro_batches + own
    }

    fn divisor(&mut self, own: f64) -> Result<f64, ModelError> {
        Ok(self.group.gather(&[own])?[0])
    }

    fn add(&mut self, totals: &[Totals], parameters: &mut [Parameter]) -> Result<Totals, ModelError> {
        let gradients = parameters.iter().map(|p| p.tensor.f_grad()).collect::<Result<Vec<_>, _>>()?;
        let mut told: Vec<f64> = totals.iter().flat_map(numbers).collect();
        told.extend(gradients.iter().map(|gradient| f64::from(u8::from(gradient.defined()))));
        let told = self.group.gather(&told)?;
        let own = totals.len() * NUMBERS;
        let ranks: Vec<(&[f64], &[f64])> = told.chunks(own + gradients.len()).map(|rank| rank.split_at(own)).collect();
        let sum = Totals::sum(ranks.iter().flat_map(|(totals, _)| totals.chunks(NUMBERS)).map(of_numbers));
        if sum.positions + sum.ar_positions == 0 {
            return Ok(sum);
        }
        let mut at = 0;
        for (parameter, gradient) in parameters.iter().zip(&gradients).filter(|(p, _)| p.trainable) {
            let count = parameter.tensor.numel() as i64;
            let mut place = self.flat.f_narrow(0, at, count)?;
            if gradient.defined() {
                place.f_copy_(&gradient.f_reshape([-1])?)?;
            } else {
                // Of all numbers, only −0 changes nothing that it is added to.
                let _ = place.f_fill_(-0.0)?;
            }
            at += count;
        }
        self.sum()?;
        let mut at = 0;
        for (number, parameter) in parameters.iter_mut().enumerate().filter(|(_, p)| p.trainable) {
            let (count, size) = (parameter.tensor.numel() as i64, parameter.tensor.size());
            if ranks.iter().any(|(_, defined)| defined[number] > 0.0) {
                set_gradient(&mut parameter.tensor, &self.flat.f_narrow(0, at, count)?.f_view(size.as_slice())?)?;
            }
            at += count;
        }
        Ok(sum)
    }
}

/// What is told of a micro-batch; every count is far below 2⁵³.
fn numbers(totals: &Totals) -> [f64; NUMBERS] {
    [
        totals.weighted,
        totals.unweighted,
        totals.positions as f64,
        totals.maskable as f64,
        totals.ar,
        totals.ar_positions as f64,
        totals.distance,
        totals.aligned as f64,
        totals.tokens as f64,
        totals.positions_read as f64,
    ]
}

fn of_numbers(told: &[f64]) -> Totals {
    Totals {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_have_whole_parts_of_the_tree() {
        assert_eq!(allowed_ranks(1), [1]);
        assert_eq!(allowed_ranks(8), [1, 2, 4, 8]);
        assert_eq!(allowed_ranks(12), [1, 3, 6, 12]);
        assert_eq!(allowed_ranks(7), [1, 7]);
    }
}
