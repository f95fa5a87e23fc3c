//! Several processes that train one model: each has a part of an update's micro-batches, and all of them end with the same sum of the
//! gradients, the same totals, and so the same weights. They are the bytes that one process with all micro-batches ends with.
//!
//! With [`Sharding::None`] and [`Sharding::Optimizer`] rank r has the micro-batches from r · n to (r + 1) · n − 1. Where n is a power of two,
//! their sum is a node of the tree of the `sum` module, and the sum over the ranks is the rest of that tree. Each rank adds a share of all
//! parameters, which `all_to_all` brings it from every rank, a round at a time, in the backward pass of its last micro-batch. With [`Sharding::None`] it gives the sum to all, and each rank
//! updates all weights; with [`Sharding::Optimizer`] it keeps the sum, updates its share, and gives the weights to all. As many bytes are sent.
//!
//! With [`Reduction::Ring`] libtorch adds up what each rank's own micro-batches add up to, and the bytes depend on the number of ranks.
//!
//! With [`Sharding::Gradients`] and [`Sharding::Parameters`] rank r of N has the micro-batches r, r + N, r + 2N and so on. After the k-th of each, a rank has its share of
//! the gradients of the micro-batches from kN to (k + 1)N − 1, which are the next leaves of the tree: it takes them in one by one, as one
//! process does, whatever N is. With the other order it would have the leaves of N distant places, and would have to keep as many sums.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tch::{Device, Kind, Tensor};

use crate::coming::{Coming, Once, Seen, locked};
use crate::error::ModelError;
use crate::exchange::{Exchange, round, rounds};
use crate::gathered::{Gathered, Gathering};
use crate::group::{Group, Place};
use crate::host::values;
use crate::many;
use crate::parameter::Parameter;
use crate::reducer::{Reducer, Share};
use crate::ring::Ring;
use crate::shares::{Piece, Shares, Squares};
use crate::shim::set_gradient;
use crate::sum::Tree;
use crate::tensor_writer::SavedFile;
use crate::together::{collected, writers};
use crate::totals::{NUMBERS, Totals};

/// What a process keeps of what the optimizer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharding {
    /// Everything: each updates all weights.
    #[default]
    None,
    /// The optimizer's state of its share: it updates that, and gives the weights to the others.
    Optimizer,
    /// And the sum of the gradients of its share: those of a micro-batch are exchanged as they come.
    Gradients,
    /// And the weights of its share: they are gathered where they are used.
    Parameters,
}

impl Sharding {
    /// Whether ranks take the micro-batches of an update in turn, not some in a row each.
    pub fn takes_turns(self) -> bool {
        matches!(self, Self::Gradients | Self::Parameters)
    }
}

/// In which order the gradients of several processes are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// In one that does not depend on their number.
    #[default]
    Tree,
    /// In that of libtorch's all_reduce: each adds its own micro-batches, and what that gives is added up around a ring. With
    /// [`Sharding::None`] only; the other ones exchange each share once, as a ring does.
    Ring,
}

/// Returns the numbers of ranks that can share so many micro-batches of an update and add their gradients in this order.
pub fn allowed_ranks(micro_batches: u64, sharding: Sharding, reduction: Reduction) -> Vec<u64> {
    let free = sharding.takes_turns() || reduction == Reduction::Ring;
    let part = |own: u64| free || own.is_power_of_two();
    let fits = |ranks: &u64| *ranks == 1 || (micro_batches.is_multiple_of(*ranks) && part(micro_batches / ranks));
    (1..=micro_batches).filter(fits).collect()
}

/// Returns the bytes that all ranks together send in an update of so many parameters by so many micro-batches, but for some numbers beside
/// them: each rank gets its share of every other one's fp32 gradients, once, or of each micro-batch, and gives it back as sums or weights. A rank
/// that keeps its share of the weights gives it for the forward and the backward pass of each micro-batch, in which embeddings and a head of its
/// own are needed once: so much less.
pub fn exchanged_bytes(parameters: u64, ranks: u64, micro_batches: u64, sharding: Sharding) -> u64 {
    let own = micro_batches / ranks;
    let times = match sharding {
        Sharding::None | Sharding::Optimizer => 2,
        Sharding::Gradients => own + 1,
        Sharding::Parameters => 3 * own,
    };
    times * (ranks - 1) * 4 * parameters
}

/// This process among them.
#[derive(Debug)]
pub(crate) struct Ranks {
    group: Arc<Group>,
    /// Micro-batches of this rank in an update.
    micro_batches: u64,
    sharding: Sharding,
    shares: Arc<Shares>,
    exchange: Arc<Mutex<Exchange>>,
    /// Where gradients are exchanged as they come.
    coming: Option<Arc<Mutex<Coming>>>,
    /// Where parameters are whole only while they are used.
    gathered: Option<Arc<Gathered>>,
    /// The sum of the gradients of this rank's stretch, where only it updates that.
    own: Tensor,
    /// Whether some rank has a gradient of each parameter.
    defined: Vec<bool>,
    /// The parameters that several ranks have parts of.
    cut: Vec<usize>,
    /// Where libtorch adds.
    ring: Option<Ring>,
    /// Where the parameters are.
    device: Device,
}

impl Ranks {
    /// `whole` says of a parameter that it is updated as a whole.
    pub fn new(
        group: Arc<Group>,
        micro_batches: u64,
        (sharding, reduction): (Sharding, Reduction),
        parameters: &[Parameter],
        whole: impl Fn(&Parameter) -> bool,
    ) -> Result<Self, ModelError> {
        if reduction == Reduction::Ring && sharding != Sharding::None {
            let found = format!("libtorch's ring, where each rank keeps a share ({sharding:?})");
            return Err(ModelError::input("who adds the gradients", found, "the tree"));
        }
        let Place { rank, size } = group.place();
        let whole = |parameter: &Parameter| sharding != Sharding::None && whole(parameter);
        let shares = Arc::new(Shares::new(parameters, size, round(size), whole));
        let device = parameters.first().map_or(Device::Cpu, |parameter| parameter.tensor.device());
        let there = group.exchanges_on(device);
        let exchange = Arc::new(Mutex::new(Exchange::new(group.clone(), shares.clone(), there)?));
        let seen = match sharding {
            _ if reduction == Reduction::Ring => None,
            Sharding::None | Sharding::Optimizer => Some(Seen::Once(Once::new(sharding == Sharding::None))),
            Sharding::Gradients | Sharding::Parameters => Some(Seen::Each),
        };
        let coming =
            seen.map(|seen| Coming::new(rank, shares.clone(), exchange.clone(), parameters, seen)).transpose()?;
        let (own, defined) = (Tensor::f_zeros([0], (Kind::Float, there))?, vec![false; parameters.len()]);
        let cut = shares.cut();
        let ring = (reduction == Reduction::Ring).then(|| Ring::new(parameters, there)).transpose()?;
        let gathered = None;
        Ok(Self { group, micro_batches, sharding, shares, exchange, coming, gathered, own, defined, cut, ring, device })
    }

    /// Where each rank keeps a share of the weights.
    pub fn gathering(group: Arc<Group>, micro_batches: u64, gathering: Gathering, parameters: &[Parameter]) -> Self {
        let Gathering { gathered, shares, exchange, gradients } = gathering;
        let (own, defined) = (Tensor::zeros([0], (Kind::Float, Device::Cpu)), vec![false; parameters.len()]);
        let (cut, sharding, gathered) = (shares.cut(), Sharding::Parameters, Some(gathered));
        let (coming, ring, device) = (Some(gradients), None, Device::Cpu);
        Self { group, micro_batches, sharding, shares, exchange, coming, gathered, own, defined, cut, ring, device }
    }

    /// The pieces of this rank's stretch in a tensor that has all of it.
    fn split(&self, all: &Tensor, wanted: impl Fn(&Piece) -> bool) -> Result<Vec<Tensor>, ModelError> {
        let (mut pieces, mut at) = (Vec::new(), 0);
        for piece in self.shares.of(self.group.place().rank) {
            let count = piece.range.len() as i64;
            pieces.push(if wanted(piece) { all.f_narrow(0, at, count)? } else { Tensor::new() });
            at += count;
        }
        Ok(pieces)
    }

    /// Has libtorch add up the gradients of all ranks.
    fn add_in_ring(&self, ring: &Ring, parameters: &mut [Parameter]) -> Result<(), ModelError> {
        let mut gradients = Vec::with_capacity(parameters.len());
        for (parameter, defined) in parameters.iter_mut().zip(&self.defined) {
            if *defined && !parameter.tensor.f_grad()?.defined() {
                let nothing = parameter.tensor.f_detach()?.f_full_like(-0.0)?;
                set_gradient(&mut parameter.tensor, &nothing)?;
            }
            let gradient = parameter.tensor.f_grad()?;
            gradients.push(if gradient.defined() { Some(gradient.f_view(-1)?) } else { None });
        }
        ring.add(&self.group, &gradients)
    }

    /// Gives the sum of this rank's stretch to all, and takes theirs. They take the place of this rank's `own` sums, where it has any.
    fn give(
        &self,
        sum: &Tensor,
        mut own: BTreeMap<usize, Tensor>,
        parameters: &mut [Parameter],
    ) -> Result<(), ModelError> {
        for (number, parameter) in parameters.iter_mut().enumerate().filter(|(number, _)| self.defined[*number]) {
            let gradient = match own.remove(&number) {
                Some(own) => own.f_view(parameter.tensor.size().as_slice())?,
                None => parameter.tensor.f_detach()?.f_empty_like()?,
            };
            set_gradient(&mut parameter.tensor, &gradient)?;
        }
        let gradients = parameters.iter().map(|parameter| {
            let gradient = parameter.tensor.f_grad()?;
            Ok::<_, ModelError>(if gradient.defined() { Some(gradient.f_view(-1)?) } else { None })
        });
        let (gradients, rank) = (gradients.collect::<Result<Vec<_>, _>>()?, self.group.place().rank);
        let exchange = locked(&self.exchange);
        for parts in self.shares.blocks().iter().flat_map(rounds) {
            let part = &parts[rank];
            exchange.place(&parts)?.f_copy_(&sum.f_narrow(0, part.start as i64, part.len() as i64)?)?;
            exchange.give(&parts, &mut |piece, values| match &gradients[piece.parameter] {
                Some(gradient) => {
                    let (from, count) = (piece.range.start as i64, piece.range.len() as i64);
                    Ok(gradient.f_narrow(0, from, count)?.f_copy_(values)?)
                }
                None => Ok(()),
            })?;
        }
        Ok(())
    }

    /// The norm as one process computes it: a parameter of several ranks is added up by one after the other. Of what is on a device, it is that
    /// up to the rounding of f64.
    fn norm(&self, parameters: &[Parameter]) -> Result<f64, ModelError> {
        let Place { rank, size } = self.group.place();
        let Some(own) = values(&self.own) else {
            let own = if self.own.numel() == 0 {
                0.0
            } else {
                many::norm(&[self.own.shallow_clone()])?.f_double_value(&[])?
            };
            return Ok(self.group.gather(&[own * own])?.iter().sum::<f64>().sqrt());
        };
        let (mut totals, mut at, mut parts) = (vec![0.0; parameters.len()], 0, Vec::new());
        for piece in self.shares.of(rank) {
            let values = &own[at..at + piece.range.len()];
            at += values.len();
            match self.cut.binary_search(&piece.parameter) {
                Ok(place) => parts.push((place, piece, values)),
                Err(_) => {
                    let mut squares = Squares::default();
                    let rest = squares.add(values);
                    totals[piece.parameter] = squares.end(rest);
                }
            }
        }
        let mut sums = vec![Squares::default(); self.cut.len()];
        for turn in (0..size).filter(|_| !self.cut.is_empty()) {
            if turn == rank {
                for (place, piece, values) in &parts {
                    let rest = sums[*place].add(values);
                    if piece.range.end == parameters[piece.parameter].tensor.numel() {
                        totals[piece.parameter] = sums[*place].end(rest);
                    }
                }
            }
            let told: Vec<u8> = sums.iter().flat_map(|squares| squares.told()).collect();
            let told = self.group.bytes_of(turn, &told)?;
            sums = told.chunks(told.len() / self.cut.len()).map(Squares::heard).collect();
        }
        let totals = self.group.gather(&totals)?;
        let of = |parameter: usize| totals.iter().skip(parameter).step_by(parameters.len()).sum::<f64>();
        Ok((0..parameters.len()).map(of).sum::<f64>().sqrt())
    }

    /// The numbers that one rank tells of its micro-batch `own`, by the number of that in the global batch.
    fn in_order(&self, told: &[&[f64]]) -> Vec<[f64; NUMBERS]> {
        let of = |rank: usize| told[rank].as_chunks().0.iter().copied();
        if self.sharding.takes_turns() {
            let turns = 0..self.micro_batches as usize;
            return turns.flat_map(|own| (0..told.len()).filter_map(move |rank| of(rank).nth(own))).collect();
        }
        (0..told.len()).flat_map(of).collect()
    }
}

impl Reducer for Ranks {
    fn number(&self, own: u64) -> u64 {
        let Place { rank, size } = self.group.place();
        if self.sharding.takes_turns() {
            own * size as u64 + rank as u64
        } else {
            rank as u64 * self.micro_batches + own
        }
    }

    fn divisor(&mut self, own: f64) -> Result<f64, ModelError> {
        Ok(self.group.gather(&[own])?[0])
    }

    fn begin(&self, own: u64, earlier: &mut Tree) {
        if let Some(coming) = self.coming.as_ref().filter(|_| own + 1 == self.micro_batches) {
            locked(coming).last_micro_batch(earlier);
        }
    }

    fn takes_gradients(&self) -> bool {
        self.sharding.takes_turns()
    }

    fn tells_losses(&self) -> bool {
        true
    }

    fn last_pass(&self) {
        if let Some(coming) = &self.coming {
            locked(coming).last_pass();
        }
    }

    fn passed(&self) -> Result<(), ModelError> {
        self.coming.as_ref().map_or(Ok(()), |coming| locked(coming).passed())
    }

    fn gather(&self, own: &[f64]) -> Result<Vec<f64>, ModelError> {
        self.group.gather(own)
    }

    fn passes(&self, own: u64) -> Result<(), ModelError> {
        self.gathered.as_ref().map_or(Ok(()), |gathered| gathered.micro_batch(own))
    }

    fn weights(&self) -> Result<Option<Vec<Tensor>>, ModelError> {
        let Some(gathered) = &self.gathered else { return Ok(None) };
        Ok(Some(self.split(&gathered.kept()?, |_| true)?))
    }

    fn problem(&self) -> Option<ModelError> {
        if let Some(problem) = self.gathered.as_ref().and_then(|gathered| gathered.problem()) {
            return Some(problem);
        }
        self.coming.as_ref().and_then(|coming| locked(coming).problem())
    }

    fn add(&mut self, totals: &[Totals], parameters: &mut [Parameter]) -> Result<Totals, ModelError> {
        let mut told: Vec<f64> = totals.iter().flat_map(Totals::told).collect();
        let mut coming = self.coming.as_ref().map(|coming| locked(coming));
        for (number, parameter) in parameters.iter().enumerate() {
            let defined = match &coming {
                Some(coming) => coming.defined()[number],
                None => parameter.tensor.f_grad()?.defined(),
            };
            told.push(f64::from(u8::from(defined)));
        }
        let sums = coming.as_mut().map(|coming| coming.take()).transpose()?;
        drop(coming);
        let told = self.group.gather(&told)?;
        let own = totals.len() * NUMBERS;
        let ranks = told.chunks(own + parameters.len()).map(|rank| rank.split_at(own));
        let (told, defined): (Vec<&[f64]>, Vec<&[f64]>) = ranks.unzip();
        let sum = Totals::sum(self.in_order(&told).into_iter().map(Totals::heard));
        if sum.positions + sum.ar_positions == 0 {
            return Ok(sum);
        }
        for (number, some) in self.defined.iter_mut().enumerate() {
            *some = defined.iter().any(|defined| defined[number] > 0.0);
        }
        match (sums, &self.ring) {
            (None, None) => {}
            (None, Some(ring)) => self.add_in_ring(ring, parameters)?,
            (Some((own, local)), _) if self.sharding == Sharding::None => {
                self.give(&own.unwrap_or_default(), local, parameters)?;
            }
            (Some((own, _)), _) => self.own = own.unwrap_or_default(),
        }
        Ok(sum)
    }

    fn share(&self, parameters: &[Parameter]) -> Result<Option<Share>, ModelError> {
        if self.sharding == Sharding::None {
            return Ok(None);
        }
        let gradients = self.split(&self.own, |piece| self.defined[piece.parameter])?;
        let there = |piece: Tensor| if piece.defined() { Ok(piece.f_to_device(self.device)?) } else { Ok(piece) };
        let gradients = gradients.into_iter().map(there).collect::<Result<_, ModelError>>()?;
        Ok(Some(Share { norm: self.norm(parameters)?, gradients, weights: self.weights()? }))
    }

    fn alike(&self, norm: f64) -> Result<(), ModelError> {
        if self.ring.is_none() {
            return Ok(());
        }
        let all = self.group.gather(&[norm])?;
        if all.iter().any(|other| other.to_bits() != norm.to_bits()) {
            return Err(ModelError::Ranks(format!("the ranks' sums of the gradients differ: their norms are {all:?}")));
        }
        Ok(())
    }

    fn spread(&mut self, parameters: &mut [Parameter]) -> Result<(), ModelError> {
        if matches!(self.sharding, Sharding::None | Sharding::Parameters) {
            return Ok(());
        }
        let rank = self.group.place().rank;
        let weights = parameters.iter().map(|parameter| Ok(parameter.tensor.f_detach()?.f_view(-1)?));
        let weights = weights.collect::<Result<Vec<_>, ModelError>>()?;
        let view =
            |piece: &Piece| weights[piece.parameter].f_narrow(0, piece.range.start as i64, piece.range.len() as i64);
        let exchange = locked(&self.exchange);
        for parts in self.shares.blocks().iter().flat_map(rounds) {
            let own = exchange.place(&parts)?;
            for (at, piece) in self.shares.within(rank, parts[rank].clone()) {
                own.f_narrow(0, at as i64, piece.range.len() as i64)?.f_copy_(&view(&piece)?)?;
            }
            exchange.give(&parts, &mut |piece, values| Ok(view(piece)?.f_copy_(values)?))?;
        }
        Ok(())
    }

    fn pieces(&self) -> Option<&[Piece]> {
        (self.sharding != Sharding::None).then(|| self.shares.of(self.group.place().rank))
    }

    fn rank(&self) -> usize {
        self.group.place().rank
    }

    fn writers(&self, dir: &Path) -> Result<Vec<usize>, ModelError> {
        writers(&self.group, dir)
    }

    fn collect(&self, own: Vec<SavedFile>) -> Result<Vec<SavedFile>, ModelError> {
        collected(&self.group, own)
    }

    fn show(
        &self,
        to: usize,
        wanted: &Piece,
        kind: Kind,
        own: &dyn Fn(&Piece) -> Result<Tensor, ModelError>,
        take: &mut dyn FnMut(&Tensor) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let Place { rank, size } = self.group.place();
        for of in (0..size).filter(|of| rank == to || *of == rank) {
            for piece in self.shares.of(of).iter().filter(|piece| piece.parameter == wanted.parameter) {
                let range = piece.range.start.max(wanted.range.start)..piece.range.end.min(wanted.range.end);
                if range.is_empty() {
                    continue;
                }
                let part = Piece { parameter: wanted.parameter, range };
                if of != rank {
                    let mut values = Tensor::f_empty([part.range.len() as i64], (kind, Device::Cpu))?;
                    self.group.receive(&mut values, of)?;
                    take(&values)?;
                } else if to == rank {
                    take(&own(&part)?)?;
                } else {
                    self.group.send(&own(&part)?.f_to_device(Device::Cpu)?, to)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_have_whole_parts_of_the_tree_or_take_its_leaves_in_turn() {
        for (micro_batches, sharding, reduction, allowed) in [
            (1, Sharding::None, Reduction::Tree, vec![1]),
            (8, Sharding::Optimizer, Reduction::Tree, vec![1, 2, 4, 8]),
            (12, Sharding::Optimizer, Reduction::Tree, vec![1, 3, 6, 12]),
            (12, Sharding::None, Reduction::Ring, vec![1, 2, 3, 4, 6, 12]),
            (12, Sharding::Gradients, Reduction::Tree, vec![1, 2, 3, 4, 6, 12]),
            (7, Sharding::Gradients, Reduction::Tree, vec![1, 7]),
        ] {
            assert_eq!(allowed_ranks(micro_batches, sharding, reduction), allowed, "{sharding:?} {reduction:?}");
        }
    }
}
