//! Several processes that train one model: each has a part of an update's micro-batches, and all of them end with the same sum of the
//! gradients, the same totals, and so the same weights. They are the bytes that one process with all micro-batches ends with.
//!
//! Rank r has the micro-batches from r · n to (r + 1) · n − 1. Where n is a power of two, their sum is a node of the tree of the `sum` module,
//! and the sum over the ranks is the rest of that tree. Each rank adds a share of all parameters, which `all_to_all` brings it from every
//! rank, a round at a time. With [`Sharding::None`] it gives the sum to all, and each rank updates all weights; with [`Sharding::Optimizer`]
//! it keeps the sum, updates its share, and gives the weights to all. As many bytes are sent.

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;
use crate::group::{Group, Place};
use crate::host::values;
use crate::parameter::Parameter;
use crate::reducer::{Reducer, Share, TensorsOf, Totals};
use crate::shares::{Piece, Shares, Squares};
use crate::shim::{forget_gradient, set_gradient};
use crate::sum::Tree;

/// Returns the numbers of ranks that can share so many micro-batches of an update and add their gradients in the same tree.
pub fn allowed_ranks(micro_batches: u64) -> Vec<u64> {
    let fits = |ranks: &u64| {
        *ranks == 1 || (micro_batches.is_multiple_of(*ranks) && (micro_batches / ranks).is_power_of_two())
    };
    (1..=micro_batches).filter(fits).collect()
}

/// Returns the bytes that all ranks together send in an update of so many parameters, but for some numbers beside them: each rank gets
/// its share of every other one's fp32 gradients, and gives it back as sums or weights.
pub fn exchanged_bytes(parameters: u64, ranks: u64) -> u64 {
    2 * (ranks - 1) * 4 * parameters
}

/// The numbers of a micro-batch's [`Totals`].
const NUMBERS: usize = 12;

/// What a process keeps of what the optimizer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharding {
    /// Everything: each updates all weights.
    #[default]
    None,
    /// The optimizer's state of its share: it updates that, and gives the weights to the others.
    Optimizer,
}

/// Elements of each rank that are exchanged at a time: enough to be fast, and little beside a model.
const ROUND: usize = if cfg!(test) { 1000 } else { 1 << 20 };

/// This process among them.
#[derive(Debug)]
pub(crate) struct Ranks {
    group: Arc<Group>,
    /// Micro-batches of this rank in an update.
    micro_batches: u64,
    sharding: Sharding,
    shares: Shares,
    /// A round's elements of every rank's stretch, and of this rank's stretch by every rank: kept from update to update.
    flat: Tensor,
    pieces: Tensor,
    /// The sum of the gradients of this rank's stretch, where only it updates that.
    own: Tensor,
    /// Whether some rank has a gradient of each parameter.
    defined: Vec<bool>,
}

impl Ranks {
    /// `whole` says of a parameter that it is updated as a whole.
    pub fn new(
        group: Arc<Group>,
        micro_batches: u64,
        sharding: Sharding,
        parameters: &[Parameter],
        whole: impl Fn(&Parameter) -> bool,
    ) -> Self {
        let Place { rank, size } = group.place();
        let shares = Shares::new(parameters, size, |parameter| sharding != Sharding::None && whole(parameter));
        let room = (size * shares.most().min(ROUND)) as i64;
        let own = if sharding == Sharding::None { 0 } else { shares.count(rank) as i64 };
        let empty = |count| Tensor::zeros([count], (Kind::Float, Device::Cpu));
        let defined = vec![false; parameters.len()];
        Self {
            group,
            micro_batches,
            sharding,
            flat: empty(room),
            pieces: empty(room),
            own: empty(own),
            defined,
            shares,
        }
    }

    /// The sum of all ranks' gradients, a round at a time: each rank gets its stretch of every rank's and adds. It stays there, or all get it.
    fn sum(&mut self, parameters: &mut [Parameter]) -> Result<(), ModelError> {
        let Place { rank, size } = self.group.place();
        let mut gradients = Vec::with_capacity(parameters.len());
        for (parameter, defined) in parameters.iter_mut().zip(&self.defined) {
            let mut gradient = parameter.tensor.f_grad()?;
            if !gradient.defined() && *defined && self.sharding == Sharding::None {
                // Of all numbers, only −0 changes nothing that it is added to.
                let nothing = parameter.tensor.f_detach()?.f_full_like(-0.0)?;
                set_gradient(&mut parameter.tensor, &nothing)?;
                gradient = parameter.tensor.f_grad()?;
            }
            gradients.push(if gradient.defined() { Some(gradient.f_view(-1)?) } else { None });
        }
        let most = self.shares.most();
        for begin in (0..most).step_by(ROUND) {
            let width = ROUND.min(most - begin);
            let part = begin..begin + width;
            let all = (size * width) as i64;
            let (flat, mut pieces) = (self.flat.f_narrow(0, 0, all)?, self.pieces.f_narrow(0, 0, all)?);
            for owner in 0..size {
                for (at, Piece { parameter, range }) in self.shares.within(owner, part.clone()) {
                    let count = range.len() as i64;
                    let mut place = flat.f_narrow(0, (owner * width + at) as i64, count)?;
                    match &gradients[parameter] {
                        Some(gradient) => place.f_copy_(&gradient.f_narrow(0, range.start as i64, count)?)?,
                        None => _ = place.f_fill_(-0.0)?,
                    }
                }
            }
            self.group.all_to_all(&mut pieces, &flat)?;
            let mut tree = Tree::default();
            for piece in pieces.f_chunk(size as i64, 0)? {
                tree.push(vec![piece])?;
            }
            let sum = tree.take()?.unwrap_or_default().remove(0);
            if self.sharding == Sharding::Optimizer {
                let count = self.shares.count(rank).saturating_sub(begin).min(width) as i64;
                if count > 0 {
                    self.own.f_narrow(0, begin as i64, count)?.f_copy_(&sum.f_narrow(0, 0, count)?)?;
                }
                continue;
            }
            flat.f_narrow(0, (rank * width) as i64, width as i64)?.f_copy_(&sum)?;
            self.give(&flat, part, &mut |piece, values| match &gradients[piece.parameter] {
                Some(gradient) => {
                    let (from, count) = (piece.range.start as i64, piece.range.len() as i64);
                    Ok(gradient.f_narrow(0, from, count)?.f_copy_(values)?)
                }
                None => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Every rank gives what it has in `flat` of this part of its stretch to the others; `take` gets all pieces.
    fn give(
        &self,
        flat: &Tensor,
        part: Range<usize>,
        take: &mut dyn FnMut(&Piece, &Tensor) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let width = part.len();
        for owner in 0..self.group.place().size {
            let count = self.shares.count(owner).saturating_sub(part.start).min(width);
            if count == 0 {
                continue;
            }
            let mut values = flat.f_narrow(0, (owner * width) as i64, count as i64)?;
            self.group.broadcast(&mut values, owner)?;
            for (at, piece) in self.shares.within(owner, part.clone()) {
                take(&piece, &values.f_narrow(0, at as i64, piece.range.len() as i64)?)?;
            }
        }
        Ok(())
    }

    /// The norm as one process computes it: a parameter of several ranks is added up by one after the other.
    fn norm(&self, parameters: &[Parameter]) -> Result<f64, ModelError> {
        let Place { rank, size } = self.group.place();
        let missing = || ModelError::Torch("gradients that are not in the memory of the host".to_owned());
        let own = values(&self.own).ok_or_else(missing)?;
        let mut totals = vec![0.0; parameters.len()];
        // Goes on with a sum; returns it where another rank has the rest of the parameter.
        let mut add = |piece: &Piece, own: &[f32], mut squares: Squares| {
            let rest = squares.add(own);
            let whole = piece.range.end == parameters[piece.parameter].tensor.numel();
            if whole {
                totals[piece.parameter] = squares.end(rest);
            }
            (!whole).then_some(squares)
        };
        let (mut at, mut open, mut continued, mut inherited) = (0, None, None, Squares::default());
        for piece in self.shares.of(rank) {
            let values = &own[at..at + piece.range.len()];
            at += values.len();
            if piece.range.start > 0 {
                continued = Some((piece, values));
            } else {
                open = add(piece, values, Squares::default());
            }
        }
        for turn in 0..size {
            if let Some((piece, values)) = continued.filter(|_| turn == rank) {
                // Open only where it is the only piece of this rank.
                open = add(piece, values, inherited).or(open);
            }
            let told = self.group.bytes_of(turn, &open.unwrap_or_default().told())?;
            if turn + 1 == rank {
                inherited = Squares::heard(&told);
            }
        }
        let totals = self.group.gather(&totals)?;
        let of = |parameter: usize| totals.iter().skip(parameter).step_by(parameters.len()).sum::<f64>();
        Ok((0..parameters.len()).map(of).sum::<f64>().sqrt())
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
        let mut told: Vec<f64> = totals.iter().flat_map(numbers).collect();
        for parameter in parameters.iter() {
            told.push(f64::from(u8::from(parameter.tensor.f_grad()?.defined())));
        }
        let told = self.group.gather(&told)?;
        let own = totals.len() * NUMBERS;
        let ranks: Vec<(&[f64], &[f64])> = told.chunks(own + parameters.len()).map(|rank| rank.split_at(own)).collect();
        let sum = Totals::sum(ranks.iter().flat_map(|(totals, _)| totals.chunks(NUMBERS)).map(of_numbers));
        if sum.positions + sum.ar_positions == 0 {
            return Ok(sum);
        }
        for (number, defined) in self.defined.iter_mut().enumerate() {
            *defined = ranks.iter().any(|(_, defined)| defined[number] > 0.0);
        }
        self.sum(parameters)?;
        if self.sharding == Sharding::Optimizer {
            parameters.iter_mut().try_for_each(|parameter| forget_gradient(&mut parameter.tensor))?;
        }
        Ok(sum)
    }

    fn share(&self, parameters: &[Parameter]) -> Result<Option<Share>, ModelError> {
        if self.sharding == Sharding::None {
            return Ok(None);
        }
        let (mut gradients, mut at) = (Vec::new(), 0);
        for piece in self.shares.of(self.group.place().rank) {
            let count = piece.range.len() as i64;
            gradients.push(if self.defined[piece.parameter] {
                self.own.f_narrow(0, at, count)?
            } else {
                Tensor::new()
            });
            at += count;
        }
        Ok(Some(Share { norm: self.norm(parameters)?, gradients }))
    }

    fn spread(&mut self, parameters: &mut [Parameter]) -> Result<(), ModelError> {
        if self.sharding == Sharding::None {
            return Ok(());
        }
        let Place { rank, .. } = self.group.place();
        let weights = parameters.iter().map(|parameter| Ok(parameter.tensor.f_detach()?.f_view(-1)?));
        let weights = weights.collect::<Result<Vec<_>, ModelError>>()?;
        let view =
            |piece: &Piece| weights[piece.parameter].f_narrow(0, piece.range.start as i64, piece.range.len() as i64);
        let most = self.shares.most();
        for begin in (0..most).step_by(ROUND) {
            let part = begin..most.min(begin + ROUND);
            for (at, piece) in self.shares.within(rank, part.clone()) {
                let place = (rank * part.len() + at) as i64;
                self.flat.f_narrow(0, place, piece.range.len() as i64)?.f_copy_(&view(&piece)?)?;
            }
            self.give(&self.flat, part, &mut |piece, values| Ok(view(piece)?.f_copy_(values)?))?;
        }
        Ok(())
    }

    fn pieces(&self) -> Option<&[Piece]> {
        (self.sharding != Sharding::None).then(|| self.shares.of(self.group.place().rank))
    }

    fn collect(&self, tensors: &mut TensorsOf) -> Result<(), ModelError> {
        for rank in 0..self.group.place().size {
            for piece in self.shares.of(rank) {
                for mut tensor in tensors(rank, piece)? {
                    self.group.broadcast(&mut tensor, rank)?;
                }
            }
        }
        Ok(())
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
        totals.balance,
        totals.balanced as f64,
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
        balance: told[10],
        balanced: told[11] as u64,
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
