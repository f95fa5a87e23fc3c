//! A forward over whole texts of which nothing is kept.

use std::sync::PoisonError;

use tch::Tensor;

use crate::arithmetic::Arithmetic;
use crate::cache::{Active, Cache};
use crate::decoder::Decoder;
use crate::device::Device;
use crate::error::ModelError;
use crate::side_by_side::side_by_side;

impl Decoder {
    /// As [`Decoder::partial`], of texts that have all their places in `active`, `capacity` at most.
    pub fn whole(&self, active: &Active, capacity: usize, how: Arithmetic) -> Result<Tensor, ModelError> {
        if self.device() != Device::Cpu.torch() {
            return self.whole_there(&active.numbered_anew(), capacity, how);
        }
        side_by_side(active, |part| {
            let part = part.numbered_anew();
            let mut nothing = Cache::passing(&self.config, (part.lanes.len(), capacity), self.target(how))?;
            self.partial_alone(&part, &mut nothing, how)
        })
    }

    /// On a device: in a room that is kept, for the forwards that were recorded in it.
    fn whole_there(&self, active: &Active, capacity: usize, how: Arithmetic) -> Result<Tensor, ModelError> {
        let mut kept = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        // Of another arithmetic the tensors are of another kind.
        let usable = kept.take().filter(|(of, _)| *of == how);
        let (_, room) = match usable {
            Some(room) => kept.insert(room),
            None => kept.insert((how, Cache::passing(&self.config, (active.lanes.len(), capacity), self.target(how))?)),
        };
        room.grow((active.lanes.len(), capacity))?;
        self.partial(active, room, how)
    }
}
