//! Whether a group brings each rank what is its own: numbers that every rank can compute for all others.

use tch::{Kind, Tensor};

use crate::device::Device;
use crate::error::ModelError;
use crate::group::{Group, Place};
use crate::host::copied;

/// Numbers of each rank: a few, and more than a network sends at once.
const COUNTS: [usize; 2] = [3, 100_003];

/// What rank `rank` has at a place.
fn number(rank: usize, at: usize) -> f32 {
    ((rank * 31 + at * 7) % 251) as f32
}

impl Group {
    /// Exchanges numbers in every way that there is: on `device`, where what is there is exchanged as it is, and else in host memory. All ranks
    /// call it. Returns what was tried; between two ranks only where there are two.
    ///
    /// # Errors
    /// When a rank is lost, or has got something else than what was sent.
    pub fn check(&self, device: Device) -> Result<Vec<&'static str>, ModelError> {
        let (Place { rank, size }, device) = (self.place(), self.exchanges_on(device.torch()));
        let tensor = |values: &[f32], kind: Kind| {
            Ok::<_, ModelError>(Tensor::f_from_slice(values)?.f_to_kind(kind)?.f_to_device(device)?)
        };
        let of = |rank: usize, count: usize| (0..count).map(|at| number(rank, at)).collect::<Vec<_>>();
        let mut tried = vec!["all_gather", "all_to_all", "broadcast"];
        if size > 1 {
            tried.push("send and receive");
        }
        for (count, kind) in COUNTS.into_iter().flat_map(|count| [(count, Kind::Float), (count, Kind::Uint8)]) {
            let same = |what: &str, found: &Tensor, wanted: &[f32]| {
                let found = copied(found)?;
                let Some(at) = (0..wanted.len().max(found.len())).find(|&at| found.get(at) != wanted.get(at)) else {
                    return Ok(());
                };
                let (found, wanted) = (found.get(at), wanted.get(at));
                Err(ModelError::Ranks(format!(
                    "{what} of {count} numbers between {size} ranks on {device:?}: rank {rank} has {found:?} at {at}, not {wanted:?}; the \
                     connection of the ranks is not to be trusted"
                )))
            };
            let own = tensor(&of(rank, count), kind)?;
            let all: Vec<f32> = (0..size).flat_map(|other| of(other, count)).collect();
            same(tried[0], &self.gathered(&own)?, &all)?;
            let whole = tensor(&of(rank, count * size), kind)?;
            let mut out = whole.f_zeros_like()?;
            self.all_to_all(&mut out, &whole)?;
            let wanted: Vec<f32> = (0..size)
                .flat_map(|other| of(other, count * size).split_off(count * rank).into_iter().take(count))
                .collect();
            same(tried[1], &out, &wanted)?;
            for root in 0..size {
                let mut values = tensor(&of(rank, count), kind)?;
                self.broadcast(&mut values, root)?;
                same(tried[2], &values, &of(root, count))?;
            }
            for from in 0..size - 1 {
                if rank == from {
                    self.send(&own, from + 1)?;
                } else if rank == from + 1 {
                    let mut values = own.f_zeros_like()?;
                    self.receive(&mut values, from)?;
                    same(tried[3], &values, &of(from, count))?;
                }
            }
        }
        Ok(tried)
    }
}
