//! Gradients that several processes exchange as they come, so that each keeps the sum of its share only, and of a micro-batch's own
//! gradients no more than a block at a time.
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
use crate::sum::Parts;

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
    /// What an exchange in the middle of a backward pass failed with.
    problem: Option<ModelError>,
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
    /// Looks at the gradients of these parameters from now on, or, where they are not to be `seen`, waits to be told that they are there.
    pub fn new(
        rank: usize,
        shares: Arc<Shares>,
        exchange: Arc<Mutex<Exchange>>,
        parameters: &[Parameter],
        seen: bool,
    ) -> Result<Arc<Mutex<Self>>, ModelError> {
        let nothing = vec![false; parameters.len()];
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
            problem: None,
            shares,
        }));
        for (number, parameter) in parameters.iter().enumerate().filter(|(_, parameter)| seen && parameter.trainable) {
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

    /// The gradient of a parameter is there.
    fn came(&mut self, number: usize) -> Result<(), ModelError> {
        if !self.last || self.problem.is_some() {
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
            let gradient = tensor.f_grad()?;
            if gradient.defined() {
                forget_gradient(tensor)?;
                self.defined[parameter] = true;
                gradients.insert(parameter, gradient.f_view(-1)?);
            }
        }
        for parts in rounds(block) {
            let round = locked(&self.exchange).bring(&parts, &|parameter| gradients.get(&parameter))?;
            self.settle()?;
            self.under_way = Some(UnderWay { begin: parts[self.rank].start, round, last: false });
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

    /// Returns the sum of this process's stretch over all micro-batches, and begins anew.
    pub fn take(&mut self) -> Result<Option<Tensor>, ModelError> {
        self.defined.fill(false);
        tch::no_grad(|| self.settle())?;
        self.sums.take()
    }
}
