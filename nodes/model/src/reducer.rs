//! What several processes that train one model exchange in a step. The sums of a step go through it between the last
//! micro-step and the update; a single process has nothing to exchange.

use std::path::Path;

use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::parameter::Parameter;
use crate::shares::Piece;
use crate::sum::Tree;
use crate::tensor_writer::SavedFile;
use crate::totals::Totals;

/// Joins the processes that train one model.
pub(crate) trait Reducer: std::fmt::Debug + Send {
    /// Returns the number that this process's micro-batch `own` has in the global batch. What is drawn at random is
    /// keyed by it, so that no two processes draw the same, and all together draw what a single one would.
    fn number(&self, own: u64) -> u64;

    /// The number that all processes divide the gradients of their micro-steps by until the update: what the one with the first
    /// micro-batch of the global batch says. `own` is what this process would say of the first that it has.
    fn divisor(&mut self, own: f64) -> Result<f64, ModelError>;

    /// This process's micro-batch `own` begins; `earlier` are the gradients of those before it, which may be taken, to be added to its own.
    fn begin(&self, _own: u64, _earlier: &mut Tree) {}

    /// Whether the gradients are taken from the parameters as they come. What this process updates comes from [`Reducer::share`] then.
    fn takes_gradients(&self) -> bool {
        false
    }

    /// Whether the losses of a micro-batch are told to other processes when all are added up, and so must be known by then.
    fn tells_losses(&self) -> bool {
        false
    }

    /// This process has so many passes of the micro-batch that begins: all processes come here.
    fn passes(&self, _own: u64) -> Result<(), ModelError> {
        Ok(())
    }

    /// The backward pass that begins is the last of its micro-batch.
    fn last_pass(&self) {}

    /// All passes of a micro-batch are done, or it had none: all processes come here.
    fn passed(&self) -> Result<(), ModelError> {
        Ok(())
    }

    /// What went wrong in the middle of a backward pass, which only knows that something did.
    fn problem(&self) -> Option<ModelError> {
        None
    }

    /// Adds up over all processes: returns the totals, and leaves the sum of the gradients in each parameter. `totals` is of each
    /// micro-batch that this process has. In a process whose micro-batches carried no loss, and of parameters that are not trained, the
    /// gradients are undefined.
    fn add(&mut self, totals: &[Totals], parameters: &mut [Parameter]) -> Result<Totals, ModelError>;

    /// The norm of the gradients that this process updates by, where it has all of them. Errors if others have another: they would drift apart.
    fn alike(&self, _norm: f64) -> Result<(), ModelError> {
        Ok(())
    }

    /// What this process updates, where that is not everything; `None` where the parameters have the gradients.
    fn share(&self, _: &[Parameter]) -> Result<Option<Share>, ModelError> {
        Ok(None)
    }

    /// Gives the weights that this process has updated to the others, and takes theirs.
    fn spread(&mut self, _: &mut [Parameter]) -> Result<(), ModelError> {
        Ok(())
    }

    /// The weights of each piece, flat, where this process keeps no others.
    fn weights(&self) -> Result<Option<Vec<Tensor>>, ModelError> {
        Ok(None)
    }

    /// The numbers of all processes, in their order. All give as many.
    fn gather(&self, own: &[f64]) -> Result<Vec<f64>, ModelError> {
        Ok(own.to_vec())
    }

    /// Which elements this process updates, where it is not all of them.
    fn pieces(&self) -> Option<&[Piece]> {
        None
    }

    /// Number of this process among all.
    fn rank(&self) -> usize {
        0
    }

    /// Returns the processes that can write into this folder, which the first one has made. All processes come here.
    fn writers(&self, _: &Path) -> Result<Vec<usize>, ModelError> {
        Ok(vec![0])
    }

    /// Files that this process has written; in the first one, those of all. All processes come here.
    fn collect(&self, own: Vec<SavedFile>) -> Result<Vec<SavedFile>, ModelError> {
        Ok(own)
    }

    /// Gives process `to` some elements of a parameter that each process keeps a piece of, in their order. `own` gives those of a piece of
    /// this process, flat and of this kind; `take` gets them in that one. All processes come here, again and again.
    fn show(
        &self,
        _to: usize,
        _wanted: &Piece,
        _kind: Kind,
        _own: &dyn Fn(&Piece) -> Result<Tensor, ModelError>,
        _take: &mut dyn FnMut(&Tensor) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        Ok(())
    }
}

/// The gradients that a process updates by.
#[derive(Debug)]
pub(crate) struct Share {
    /// Of the gradients of all processes, as one process computes it.
    pub norm: f64,
    /// Of each piece, flat; undefined where no process has one.
    pub gradients: Vec<Tensor>,
    /// As [`Reducer::weights`].
    pub weights: Option<Vec<Tensor>>,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Alone;

impl Reducer for Alone {
    fn number(&self, own: u64) -> u64 {
        own
    }

    fn divisor(&mut self, own: f64) -> Result<f64, ModelError> {
        Ok(own)
    }

    fn add(&mut self, totals: &[Totals], _: &mut [Parameter]) -> Result<Totals, ModelError> {
        Ok(Totals::sum(totals.iter().copied()))
    }
}
