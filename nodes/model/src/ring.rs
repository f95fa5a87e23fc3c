//! Gradients that libtorch adds up over several processes, around a ring: in an order that depends on how many they are.

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;
use crate::exchange::round;
use crate::group::Group;
use crate::parameter::Parameter;
use crate::shares::Shares;

/// What is added up at a time.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Everything is one process's: the trained parameters, one behind the other.
    all: Shares,
    /// A round, kept from update to update.
    flat: Tensor,
}

impl Ring {
    /// Of gradients that are exchanged on `device`.
    pub fn new(parameters: &[Parameter], device: Device) -> Result<Self, ModelError> {
        let all = Shares::new(parameters, 1, usize::MAX, |_| false);
        let flat = Tensor::f_zeros([all.count(0).min(round(1)) as i64], (Kind::Float, device))?;
        Ok(Self { all, flat })
    }

    /// Each flat gradient becomes the sum of all processes'. Those that are not there are there in no process.
    pub fn add(&self, group: &Group, gradients: &[Option<Tensor>]) -> Result<(), ModelError> {
        let count = self.all.count(0);
        for begin in (0..count).step_by(round(1)) {
            let part = begin..count.min(begin + round(1));
            let mut flat = self.flat.f_narrow(0, 0, part.len() as i64)?;
            let mut places = Vec::new();
            for (at, piece) in self.all.within(0, part) {
                let (from, length) = (piece.range.start as i64, piece.range.len() as i64);
                let mut place = flat.f_narrow(0, at as i64, length)?;
                match &gradients[piece.parameter] {
                    Some(gradient) => {
                        let own = gradient.f_narrow(0, from, length)?;
                        place.f_copy_(&own)?;
                        places.push((own, place));
                    }
                    None => _ = place.f_zero_()?,
                }
            }
            group.all_reduce(&mut flat)?;
            places.iter_mut().try_for_each(|(own, sum)| own.f_copy_(sum))?;
        }
        Ok(())
    }
}
