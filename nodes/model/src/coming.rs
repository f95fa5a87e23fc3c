//! Gradients that several processes exchange as they come: of each micro-batch, so that a process keeps the sum of its share only, and of a
//! micro-batch's own gradients no more than a block at a time; or once in an update, with the last micro-batch that a process has, when those of the
//! ones before it are added to them.
//!
//! All processes exchange the blocks in one order, from the last to the first, as a backward pass reaches them: a block when all of its
//! gradients are there and the blocks behind it have been exchanged, in the middle of the last backward pass of a micro-batch. What is
//! left then, because a parameter took no part or the micro-batch carried no loss, is exchanged after the pass.
//!
//! The pass does not wait: what comes is added up when the next round is on its way, the last of a micro-batch's in the next micro-batch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::Tensor;

use crate::error::ModelError;
use crate::exchange::{Exchange, Round, rounds};
use crate::parameter::Parameter;
use crate::shares::Shares;
use crate::shim::{after_gradient, forget_gradient};
use crate::sum::{Parts, Tree};

/// The gradients of the micro-batches of an update, as far as they have come.
#[derive(Debug)]
pub(crate) struct Coming {
    rank: usize,
    shares: Arc<Shares>,
    exchange: Arc<Mutex<Exchange>>,
    /// Of all parameters.
    tensors: Vec<Tensor>,
    /// Of this process's stretch, of all processes.
    sums: Parts,
    under_way: Option<UnderWay>,
    /// Whether this process has had a gradient of each parameter since the last update.
    defined: Vec<bool>,
    /// Whether it has come in the last pass of this micro-batch.
    come: Vec<bool>,
    /// Blocks that have not been exchanged: the first ones.
    left: usize,
    /// Whether the pass at work is the last of its micro-batch.
    last: bool,
    /// Where gradients are exchanged once in an update.
    once: Option<Once>,
    /// What an exchange in the middle of a backward pass failed with.
    problem: Option<ModelError>,
}

/// What is exchanged with a process's last micro-batch.
#[derive(Debug)]
pub(crate) struct Once {
    /// Of the micro-batches before; none while the last one has not begun.
    earlier: Option<Tree>,
    /// Whether a process needs memory for all of the sums, which is that of its own ones, flat, by the numbers of the parameters.
    own: Option<BTreeMap<usize, Tensor>>,
}

impl Once {
    /// `all`: whether this process will get the sums of all parameters.
    pub fn new(all: bool) -> Self {
        Self { earlier: None, own: all.then(BTreeMap::new) }
    }
}

/// How a [`Coming`] learns of gradients, and when they are exchanged.
pub(crate) enum Seen {
    /// It looks at them, and exchanges those of each micro-batch.
    Each,
    /// It looks at them, and exchanges those of an update.
    Once(Once),
    /// It is told that they are there, in each micro-batch.
    Told,
}

/// A round that is on its way.
#[derive(Debug)]
struct UnderWay {
    /// Where its elements begin in this process's stretch.
    begin: usize,
    round: Round,
    /// Whether it is the last of a micro-batch.
    last: bool,
}

/// What is behind a lock that a panic may have left.
pub(crate) fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Coming {
    /// Of the gradients of these parameters, from now on.
    pub fn new(
        rank: usize,
        shares: Arc<Shares>,
        exchange: Arc<Mutex<Exchange>>,
        parameters: &[Parameter],
        seen: Seen,
    ) -> Result<Arc<Mutex<Self>>, ModelError> {
        let nothing = vec![false; parameters.len()];
        let looks = !matches!(seen, Seen::Told);
        let once = if let Seen::Once(once) = seen { Some(once) } else { None };
        let coming = Arc::new(Mutex::new(Self {
            rank,
            exchange,
            tensors: parameters.iter().map(|parameter| parameter.tensor.shallow_clone()).collect(),
            sums: Parts::new(shares.count(rank)),
            under_way: None,
            defined: nothing.clone(),
            come: nothing,
            left: shares.blocks().len(),
            last: false,
            once,
            problem: None,
            shares,
        }));
        for (number, parameter) in parameters.iter().enumerate().filter(|(_, parameter)| looks && parameter.trainable) {
            // A tensor keeps what looks at it, and must not keep itself.
            let coming = Arc::downgrade(&coming);
            after_gradient(&parameter.tensor, move || match coming.upgrade() {
                Some(coming) => locked(&coming).came(number),
                None => Ok(()),
            })?;
        }
        Ok(coming)
    }

    /// The next backward pass is the last of its micro-batch.
    pub fn last_pass(&mut self) {
        self.last = true;
    }

    /// Where gradients are exchanged once: the micro-batch that begins is this process's last, and these are the gradients of those before it.
    pub fn last_micro_batch(&mut self, earlier: &mut Tree) {
        if let Some(once) = &mut self.once {
            once.earlier = Some(std::mem::take(earlier));
        }
    }

    /// Whether the gradients of the micro-batch at work are exchanged.
    fn exchanges(&self) -> bool {
        self.once.as_ref().is_none_or(|once| once.earlier.is_some())
    }

    /// The gradient of a parameter is there.
    fn came(&mut self, number: usize) -> Result<(), ModelError> {
        if !self.last || self.problem.is_some() || !self.exchanges() {
            return Ok(());
        }
        self.come[number] = true;
        let exchanged = tch::no_grad(|| self.exchange_while(|own, block| own.is_whole(block)));
        exchanged.map_err(|problem| {
            let text = problem.to_string();
            self.problem = Some(problem);
            ModelError::Ranks(text)
        })
    }

    /// The gradients of this block and of those behind it are there, unless more passes of the micro-batch are to come.
    pub fn exchange_from(&mut self, block: usize) -> Result<(), ModelError> {
        if self.last { self.exchange_while(|_, left| left >= block) } else { Ok(()) }
    }

    fn is_whole(&self, block: usize) -> bool {
        self.shares.blocks()[block].parameters.iter().all(|&parameter| self.come[parameter])
    }

    /// Exchanges the last block that is left, again and again.
    fn exchange_while(&mut self, ready: impl Fn(&Self, usize) -> bool) -> Result<(), ModelError> {
        while self.left > 0 && ready(self, self.left - 1) {
            self.left -= 1;
            self.exchange(self.left)?;
        }
        Ok(())
    }

    fn exchange(&mut self, block: usize) -> Result<(), ModelError> {
        let shares = self.shares.clone();
        let block = &shares.blocks()[block];
        let mut gradients = BTreeMap::new();
        for &parameter in &block.parameters {
            let tensor = &mut self.tensors[parameter];
            let mut gradient = tensor.f_grad()?;
            if gradient.defined() {
                forget_gradient(tensor)?;
            }
            if let Some(earlier) = self.once.as_mut().and_then(|once| once.earlier.as_mut()) {
                gradient = earlier.sum_with(parameter, gradient)?;
            }
            if gradient.defined() {
                self.defined[parameter] = true;
                gradients.insert(parameter, gradient.f_view(-1)?);
            }
        }
        for parts in rounds(block) {
            let round = locked(&self.exchange).bring(&parts, &|parameter| gradients.get(&parameter))?;
            self.settle()?;
            self.under_way = Some(UnderWay { begin: parts[self.rank].start, round, last: false });
        }
        if let Some(own) = self.once.as_mut().and_then(|once| once.own.as_mut()) {
            own.extend(gradients);
        }
        Ok(())
    }

    /// Waits for the round that is on its way, and adds it up.
    fn settle(&mut self) -> Result<(), ModelError> {
        let Some(UnderWay { begin, round, last }) = self.under_way.take() else { return Ok(()) };
        let pieces = locked(&self.exchange).brought(round)?;
        self.sums.push(begin, pieces)?;
        if last {
            self.sums.end();
        }
        Ok(())
    }

    /// All passes of a micro-batch are done.
    pub fn passed(&mut self) -> Result<(), ModelError> {
        if !self.exchanges() {
            self.last = false;
            return Ok(());
        }
        tch::no_grad(|| self.exchange_while(|_, _| true))?;
        match &mut self.under_way {
            Some(round) => round.last = true,
            None => self.sums.end(),
        }
        for tensor in &self.tensors {
            if tensor.f_grad()?.defined() {
                return Err(ModelError::Torch("a gradient that came after its block had been exchanged".to_owned()));
            }
        }
        (self.left, self.last) = (self.shares.blocks().len(), false);
        self.come.fill(false);
        Ok(())
    }

    /// What an exchange failed with.
    pub fn problem(&mut self) -> Option<ModelError> {
        self.problem.take()
    }

    /// Whether this process has had a gradient of each parameter since the last update.
    pub fn defined(&self) -> &[bool] {
        &self.defined
    }

    /// Returns the sum of this process's stretch over all micro-batches, and begins anew. Where all processes get all sums, this one's own are
    /// with it, whose memory they may have.
    pub fn take(&mut self) -> Result<(Option<Tensor>, BTreeMap<usize, Tensor>), ModelError> {
        self.defined.fill(false);
        tch::no_grad(|| self.settle())?;
        let mut own = BTreeMap::new();
        if let Some(once) = &mut self.once {
            if once.earlier.take().is_none() {
                return Err(ModelError::Ranks("an update with fewer micro-batches than were agreed on".to_owned()));
            }
            own = once.own.as_mut().map(std::mem::take).unwrap_or_default();
        }
        Ok((self.sums.take()?, own))
    }
}
