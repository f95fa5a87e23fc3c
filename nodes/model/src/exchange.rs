//! How several processes exchange what is of the parameters: block by block, and of a block some million numbers at a time ("a round").

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;
use crate::group::{Group, Place, Started};
use crate::shares::{Block, Piece, Shares};

/// Elements that this many processes exchange at a time, all together: enough to be fast, a message of a megabyte or more to each other one, and
/// little beside a model.
pub(crate) fn full_round(size: usize) -> usize {
    (1 << 22).max(size << 18)
}

/// The same; in tests few enough that their models have several rounds.
pub(crate) fn round(size: usize) -> usize {
    if cfg!(test) { 2000 } else { full_round(size) }
}

/// Rounds that are under way at once: one is added up while the next one comes.
pub(crate) const ROOMS: usize = 2;

/// The exchanges of one process with the others.
#[derive(Debug)]
pub(crate) struct Exchange {
    group: Arc<Group>,
    shares: Arc<Shares>,
    rooms: [Room; ROOMS],
    /// The room of the next round.
    next: usize,
}

/// The memory of a round, kept from update to update.
#[derive(Debug)]
struct Room {
    /// Elements of every process's stretch, and of this process's stretch by every process.
    flat: Tensor,
    pieces: Tensor,
}

/// A round that is under way.
#[derive(Debug)]
pub(crate) struct Round {
    room: usize,
    started: Started,
    /// Elements that each process has room for, and those of this one.
    width: usize,
    own: usize,
}

/// Elements of each process in a round.
fn per_process(size: usize) -> usize {
    (round(size) / size).max(1)
}

/// The parts of a block that are exchanged at a time, one of each process's elements.
pub(crate) fn rounds(block: &Block) -> impl Iterator<Item = Vec<Range<usize>>> {
    let each = per_process(block.stretches.len());
    (0..block.most()).step_by(each).map(move |begin| {
        let part = |stretch: &Range<usize>| {
            let from = (stretch.start + begin).min(stretch.end);
            from..(from + each).min(stretch.end)
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
        let size = group.place().size;
        let room = (size * shares.most().min(per_process(size))) as i64;
        let empty = || Tensor::f_zeros([room], (Kind::Float, device));
        let room = || Ok::<_, ModelError>(Room { flat: empty()?, pieces: empty()? });
        Ok(Self { rooms: [room()?, room()?], next: 0, group, shares })
    }

    /// Gives each process its part of what this one has, without waiting for what they give: [`Exchange::brought`] does. A flat tensor that is
    /// not there has nothing to add: of all numbers, only −0 changes nothing that it is added to.
    pub fn bring<'a>(
        &mut self,
        parts: &[Range<usize>],
        tensor: &dyn Fn(usize) -> Option<&'a Tensor>,
    ) -> Result<Round, ModelError> {
        let (Place { rank, size }, width) = (self.group.place(), width(parts));
        let room = self.next;
        self.next = (room + 1) % ROOMS;
        let all = (size * width) as i64;
        let flat = self.rooms[room].flat.f_narrow(0, 0, all)?;
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
        let started = self.group.start_all_to_all(&self.rooms[room].pieces.f_narrow(0, 0, all)?, &flat)?;
        Ok(Round { room, started, width, own: parts[rank].len() })
    }

    /// Waits for what all processes have of this one's part, and returns it in their order. It may be changed, and is lost [`ROOMS`] rounds later.
    pub fn brought(&self, Round { room, started, width, own }: Round) -> Result<Vec<Tensor>, ModelError> {
        self.group.finish(started)?;
        let size = self.group.place().size as i64;
        let pieces = self.rooms[room].pieces.f_narrow(0, 0, size * width as i64)?;
        pieces.f_chunk(size, 0)?.iter().map(|piece| Ok(piece.f_narrow(0, 0, own as i64)?)).collect()
    }

    /// The memory that no round which is under way uses, where one is at most.
    fn free(&self) -> &Tensor {
        &self.rooms[self.next].flat
    }

    /// Where this process puts its part of what it will [`Exchange::give`].
    pub fn place(&self, parts: &[Range<usize>]) -> Result<Tensor, ModelError> {
        let rank = self.group.place().rank;
        Ok(self.free().f_narrow(0, (rank * width(parts)) as i64, parts[rank].len() as i64)?)
    }

    /// Every process gives its part to the others; `take` gets all pieces.
    pub fn give(
        &self,
        parts: &[Range<usize>],
        take: &mut dyn FnMut(&Piece, &Tensor) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let width = width(parts);
        for (owner, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            let mut values = self.free().f_narrow(0, (owner * width) as i64, part.len() as i64)?;
            self.group.broadcast(&mut values, owner)?;
            for (at, piece) in self.shares.within(owner, part.clone()) {
                take(&piece, &values.f_narrow(0, at as i64, piece.range.len() as i64)?)?;
            }
        }
        Ok(())
    }
}
