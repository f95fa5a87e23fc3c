//! Parameters of which each of several processes keeps a share, whole while they are used and no longer.
//!
//! They are cut into units: the embeddings, each block, the last norm, and the output head where it is a matrix of its own. A unit's
//! parameters lie one behind the other in one storage, which has memory only while the unit is used: all processes give each other their
//! shares of it before a forward uses it, and for a block once more before its backward pass. While one unit computes, the next comes.
//!
//! All processes must exchange the same in the same order, so a pass goes through the units in one order, forward and back, and a process
//! that has fewer passes of a micro-batch than another, or none because nothing carries loss, attends the other's. It attends first, so
//! that its own last pass is everybody's last, behind whose blocks gradients are exchanged.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use tch::{Device, Kind, Tensor};

use crate::coming::{Coming, Seen, locked};
use crate::error::ModelError;
use crate::exchange::Exchange;
use crate::experts::Routed;
use crate::group::{Group, Place, Started};
use crate::host::{read, write};
use crate::layers::Passed;
use crate::parameter::Parameter;
use crate::shares::{Piece, Shares};
use crate::shim::{attach, attach_all, empty, fill};

/// Elements that parameters in a unit begin at a multiple of: products of matrices may depend on where these lie.
const ALIGNED: usize = 16;

/// The parameters of a decoder that are used together, by their numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Units {
    /// Embeddings, blocks, last norm and, if it is a matrix of its own, the head.
    pub parameters: Vec<Range<usize>>,
    pub blocks: usize,
}

impl Units {
    pub const EMBEDDING: usize = 0;

    /// That of a block.
    pub fn block(layer: usize) -> usize {
        layer + 1
    }

    fn norm(&self) -> usize {
        self.blocks + 1
    }

    fn head(&self) -> usize {
        if self.parameters.len() > self.norm() + 1 { self.norm() + 1 } else { Self::EMBEDDING }
    }

    /// In the order of a pass: forward, and the blocks back.
    pub fn order(&self) -> Vec<usize> {
        let blocks = 1..=self.blocks;
        let ahead = std::iter::once(Self::EMBEDDING).chain(blocks.clone()).chain([self.norm(), self.head()]);
        ahead.chain(blocks.rev()).collect()
    }
}

/// The memory of a unit.
#[derive(Debug)]
struct Storage {
    /// All of it, with a few elements between parameters that belong to none.
    flat: Tensor,
    /// Where the elements of each process begin and end.
    stretches: Vec<Range<usize>>,
    /// Of this process's stretch: where its pieces lie here, and among all that it keeps.
    own: Vec<(Range<usize>, usize)>,
}

/// What a process has of the units.
#[derive(Debug)]
struct State {
    group: Arc<Group>,
    storages: Vec<Storage>,
    /// What this process keeps, and updates.
    kept: Tensor,
    /// The units in the order of a pass, and how many of them are of its way forward.
    order: Vec<usize>,
    forward: usize,
    norm: usize,
    /// Of the pass at work: what is used next, and that if it is on its way.
    next: usize,
    coming: Option<Vec<Started>>,
    /// Passes of the micro-batch that are left, with the one at work.
    passes: u64,
    gradients: Arc<Mutex<Coming>>,
    problem: Option<ModelError>,
}

/// The parameters of a decoder, as far as this process has them; of one that nobody has read the weights of, none.
#[derive(Debug)]
pub(crate) struct Gathered(Mutex<Option<State>>);

/// What exchanges the parameters of a [`Gathered`], and their gradients.
#[derive(Debug)]
pub(crate) struct Gathering {
    pub gathered: Arc<Gathered>,
    pub shares: Arc<Shares>,
    pub exchange: Arc<Mutex<Exchange>>,
    pub gradients: Arc<Mutex<Coming>>,
}

impl Gathered {
    /// Of a model whose weights nobody has read.
    pub fn nowhere() -> Arc<Self> {
        Arc::new(Self(Mutex::new(None)))
    }

    /// Takes the share of this process out of all parameters, which get other tensors: parts of the units' storages, without memory.
    pub fn begin(group: Arc<Group>, units: &Units, parameters: &mut [Parameter]) -> Result<Gathering, ModelError> {
        let Place { rank, size } = group.place();
        let shares = Arc::new(Shares::of_units(parameters, size, &units.parameters));
        let kept = Tensor::f_empty([shares.count(rank) as i64], (Kind::Float, Device::Cpu))?;
        let mut at = 0;
        for Piece { parameter, range } in shares.of(rank) {
            let values = parameters[*parameter].elements(range.clone())?;
            kept.f_narrow(0, at, values.numel() as i64)?.f_copy_(&values)?;
            at += values.numel() as i64;
        }
        let storages = (0..units.parameters.len()).map(|unit| Storage::new(unit, units, &shares, rank, parameters));
        let storages = storages.collect::<Result<Vec<_>, _>>()?;
        let exchange = Arc::new(Mutex::new(Exchange::new(group.clone(), shares.clone(), Device::Cpu)?));
        let gradients = Coming::new(rank, shares.clone(), exchange.clone(), parameters, Seen::Told)?;
        let state = State {
            group,
            storages,
            kept,
            order: units.order(),
            forward: units.blocks + 3,
            norm: units.norm(),
            next: 0,
            coming: None,
            passes: 0,
            gradients: gradients.clone(),
            problem: None,
        };
        let gathered = Arc::new(Self(Mutex::new(Some(state))));
        Ok(Gathering { gathered, shares, exchange, gradients })
    }

    fn with<T>(&self, run: impl FnOnce(&mut State) -> Result<T, ModelError>) -> Result<T, ModelError> {
        let mut state = locked(&self.0);
        let state = state.as_mut().ok_or_else(unread)?;
        tch::no_grad(|| run(state)).map_err(|problem| {
            // Out of a backward pass only a text comes.
            let text = problem.to_string();
            _ = state.problem.get_or_insert(problem);
            ModelError::Ranks(text)
        })
    }

    /// What this process keeps of the weights.
    pub fn kept(&self) -> Result<Tensor, ModelError> {
        self.with(|state| Ok(state.kept.shallow_clone()))
    }

    /// What went wrong first.
    pub fn problem(&self) -> Option<ModelError> {
        locked(&self.0).as_mut()?.problem.take()
    }

    /// This process has `own` passes of the micro-batch that begins, and others perhaps more: attends those.
    pub fn micro_batch(&self, own: u64) -> Result<(), ModelError> {
        self.with(|state| {
            let all = state.group.gather(&[own as f64])?;
            state.passes = all.into_iter().fold(0.0, f64::max) as u64;
            while state.passes > own {
                if own == 0 && state.passes == 1 {
                    locked(&state.gradients).last_pass();
                }
                state.attend()?;
            }
            Ok(())
        })
    }

    /// Has a unit whole while it is used in a forward.
    pub fn used<T>(&self, unit: usize, run: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
        self.with(|state| state.enter(unit))?;
        let result = run()?;
        self.with(|state| state.leave(unit))?;
        Ok(result)
    }

    /// Has the last norm and the head whole while they are used; the norm stays until the backward pass has been through it.
    pub fn used_last<T>(&self, units: &Units, run: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
        self.with(|state| state.enter(units.norm()))?;
        self.used(units.head(), run)
    }

    /// Has a block whole while `run` computes it from its input, and again in its backward pass.
    pub fn block(
        self: &Arc<Self>,
        layer: usize,
        x: &Tensor,
        run: impl FnOnce(&Tensor) -> Result<Passed, ModelError>,
    ) -> Result<Passed, ModelError> {
        let unit = Units::block(layer);
        let left = self.clone();
        let input = attach(x.f_detach()?, &[x], move |gradient| {
            left.with(|state| state.leave_back(unit))?;
            Ok(vec![Some(gradient.shallow_clone())])
        })?;
        let Passed { rows, routed } = self.used(unit, || run(&input))?;
        let entered = self.clone();
        let back = move |gradients: &[Option<Tensor>]| {
            entered.with(|state| state.enter_back(unit))?;
            Ok(gradients.iter().map(|gradient| gradient.as_ref().map(Tensor::shallow_clone)).collect())
        };
        Ok(match routed {
            None => {
                let [rows] = attach_all([rows.f_detach()?], &[&rows], back)?;
                Passed { rows, routed: None }
            }
            Some(Routed { shares, chosen }) => {
                let outputs = [rows.f_detach()?, shares.f_detach()?];
                let [rows, shares] = attach_all(outputs, &[&rows, &shares], back)?;
                Passed { rows, routed: Some(Routed { shares, chosen }) }
            }
        })
    }
}

fn unread() -> ModelError {
    ModelError::Ranks("a model whose weights are kept by several ranks is there for training only".to_owned())
}

impl State {
    /// Waits until a unit is there, which must be the next of the pass, and has the one after it come.
    fn enter(&mut self, unit: usize) -> Result<(), ModelError> {
        if self.passes == 0 {
            return Err(unread());
        }
        if self.order.get(self.next) != Some(&unit) {
            return Err(ModelError::Torch(format!("unit {unit} of the parameters out of turn, at {}", self.next)));
        }
        let started = match self.coming.take() {
            Some(started) => started,
            None => self.start(unit)?,
        };
        started.into_iter().try_for_each(|started| self.group.finish(started))?;
        self.next += 1;
        if let Some(&ahead) = self.order.get(self.next) {
            self.coming = Some(self.start(ahead)?);
        }
        Ok(())
    }

    /// Begins to exchange the shares of a unit.
    fn start(&mut self, unit: usize) -> Result<Vec<Started>, ModelError> {
        let Storage { flat, stretches, own, .. } = &self.storages[unit];
        fill(flat)?;
        for (range, from) in own {
            let (begin, count) = (range.start as i64, range.len() as i64);
            let kept = self.kept.f_narrow(0, *from as i64, count)?;
            // Past torch, which would otherwise see that what the backward pass needs has changed meanwhile.
            let mut place = flat.f_narrow(0, begin, count)?;
            // SAFETY: nothing else uses a unit that is not there.
            unsafe { write(&mut place)? }.copy_from_slice(read(&kept)?);
        }
        let parts = stretches.iter().enumerate().filter(|(_, stretch)| !stretch.is_empty());
        let start = |(rank, stretch): (usize, &Range<usize>)| {
            self.group.start_broadcast(&flat.f_narrow(0, stretch.start as i64, stretch.len() as i64)?, rank)
        };
        parts.map(start).collect()
    }

    fn leave(&self, unit: usize) -> Result<(), ModelError> {
        empty(&self.storages[unit].flat)
    }

    /// As [`State::enter`], of a block's backward pass. What is behind the last block is done with then.
    fn enter_back(&mut self, unit: usize) -> Result<(), ModelError> {
        let first = self.next == self.forward;
        self.enter(unit)?;
        if first {
            self.leave(self.norm)?;
            locked(&self.gradients).exchange_from(self.norm)?;
        }
        Ok(())
    }

    /// The backward pass of a block is done.
    fn leave_back(&mut self, unit: usize) -> Result<(), ModelError> {
        self.leave(unit)?;
        if self.next == self.order.len() {
            (self.next, self.passes) = (0, self.passes - 1);
        }
        locked(&self.gradients).exchange_from(unit)
    }

    /// Exchanges what a pass does, without one.
    fn attend(&mut self) -> Result<(), ModelError> {
        for place in 0..self.order.len() {
            let unit = self.order[place];
            if place >= self.forward {
                self.enter_back(unit)?;
                self.leave_back(unit)?;
            } else {
                self.enter(unit)?;
                if unit != self.norm {
                    self.leave(unit)?;
                }
            }
        }
        Ok(())
    }
}

impl Storage {
    /// Of a unit, whose parameters become parts of it.
    fn new(
        unit: usize,
        units: &Units,
        shares: &Shares,
        rank: usize,
        parameters: &mut [Parameter],
    ) -> Result<Self, ModelError> {
        let (numbers, block) = (&units.parameters[unit], &shares.blocks()[unit]);
        let (mut begins, mut end) = (Vec::with_capacity(numbers.len()), 0);
        for parameter in &parameters[numbers.clone()] {
            begins.push(end);
            end = (end + parameter.tensor.numel()).next_multiple_of(ALIGNED);
        }
        let flat = Tensor::f_empty([end as i64], (Kind::Float, Device::Cpu))?;
        for (parameter, &begin) in parameters[numbers.clone()].iter_mut().zip(&begins) {
            let (count, size) = (parameter.tensor.numel() as i64, parameter.tensor.size());
            parameter.tensor = flat.f_narrow(0, begin as i64, count)?.f_view(size.as_slice())?.f_detach()?;
            parameter.source = None;
        }
        // Torch makes no views of what has no memory.
        empty(&flat)?;
        let place = |Piece { parameter, range }: &Piece| {
            let begin = begins[parameter - numbers.start];
            begin + range.start..begin + range.end
        };
        let of = |rank: usize| shares.within(rank, block.stretches[rank].clone());
        let size = block.stretches.len();
        let mut stretches = vec![end..end; size];
        for rank in (0..size).rev() {
            let next = stretches.get(rank + 1).map_or(end, |stretch| stretch.start);
            let first = of(rank).next().map_or(next, |(_, piece)| place(&piece).start);
            stretches[rank] = first..next;
        }
        let begun = block.stretches[rank].start;
        let own = of(rank).map(|(at, piece)| (place(&piece), begun + at)).collect();
        Ok(Self { flat, stretches, own })
    }
}
