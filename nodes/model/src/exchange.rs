//! How several processes exchange what is of the parameters: block by block, and of a block a million numbers of each process at a time.

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;
use crate::group::{Group, Place};
use crate::shares::{Block, Piece, Shares};

/// Elements of each process that are exchanged at a time: enough to be fast, and little beside a model.
pub(crate) const ROUND: usize = if cfg!(test) { 1000 } else { 1 << 20 };

/// The exchanges of one process with the others.
#[derive(Debug)]
pub(crate) struct Exchange {
    group: Arc<Group>,
    shares: Arc<Shares>,
    /// A round's elements of every process's stretch, and of this process's stretch by every process: kept from update to update.
    flat: Tensor,
    pieces: Tensor,
}

/// The parts of a block that are exchanged at a time, one of each process's elements.
pub(crate) fn rounds(block: &Block) -> impl Iterator<Item = Vec<Range<usize>>> {
    (0..block.most()).step_by(ROUND).map(move |begin| {
        let part = |stretch: &Range<usize>| {
            let from = (stretch.start + begin).min(stretch.end);
            from..(from + ROUND).min(stretch.end)
        };
        block.stretches.iter().map(part).collect()
    })
}

/// Elements of the process with the most.
fn width(parts: &[Range<usize>]) -> usize {
    parts.iter().map(Range::len).max().unwrap_or(0)
}

impl Exchange {
    /// Exchanges on `device`, where the group can: see [`Group::exchanges_on`].
    pub fn new(group: Arc<Group>, shares: Arc<Shares>, device: Device) -> Result<Self, ModelError> {
        let room = (group.place().size * shares.most().min(ROUND)) as i64;
        let empty = || Tensor::f_zeros([room], (Kind::Float, device));
        Ok(Self { flat: empty()?, pieces: empty()?, group, shares })
    }

    /// Gives each process its part of what this one has, and returns what all of them have of this one's part, in their order. A flat tensor
    /// that is not there has nothing to add: of all numbers, only −0 changes nothing that it is added to.
    pub fn bring<'a>(
        &self,
        parts: &[Range<usize>],
        tensor: &dyn Fn(usize) -> Option<&'a Tensor>,
    ) -> Result<Vec<Tensor>, ModelError> {
        let (Place { rank, size }, width) = (self.group.place(), width(parts));
        let all = (size * width) as i64;
        let (flat, mut pieces) = (self.flat.f_narrow(0, 0, all)?, self.pieces.f_narrow(0, 0, all)?);
        for (owner, part) in parts.iter().enumerate() {
            for (at, Piece { parameter, range }) in self.shares.within(owner, part.clone()) {
                let count = range.len() as i64;
                let mut place = flat.f_narrow(0, (owner * width + at) as i64, count)?;
                match tensor(parameter) {
                    Some(tensor) => place.f_copy_(&tensor.f_narrow(0, range.start as i64, count)?)?,
                    None => _ = place.f_fill_(-0.0)?,
                }
            }
        }
        self.group.all_to_all(&mut pieces, &flat)?;
        let own = parts[rank].len() as i64;
        pieces.f_chunk(size as i64, 0)?.iter().map(|piece| Ok(piece.f_narrow(0, 0, own)?)).collect()
    }

    /// Where this process puts its part of what it will [`Exchange::give`].
    pub fn place(&self, parts: &[Range<usize>]) -> Result<Tensor, ModelError> {
        let rank = self.group.place().rank;
        Ok(self.flat.f_narrow(0, (rank * width(parts)) as i64, parts[rank].len() as i64)?)
    }

    /// Every process gives its part to the others; `take` gets all pieces.
    pub fn give(
        &self,
        parts: &[Range<usize>],
        take: &mut dyn FnMut(&Piece, &Tensor) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let width = width(parts);
        for (owner, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            let mut values = self.flat.f_narrow(0, (owner * width) as i64, part.len() as i64)?;
            self.group.broadcast(&mut values, owner)?;
            for (at, piece) in self.shares.within(owner, part.clone()) {
                take(&piece, &values.f_narrow(0, at as i64, piece.range.len() as i64)?)?;
            }
        }
        Ok(())
    }
}
