//! EMA weights: an exponential moving average of the weights over the updates, stored in addition to them, in fp32.
//!
//! A checkpoint's model.safetensors then contains the average, which is used for sampling and scoring, and
//! optimizer.safetensors contains the weights that training continues with.

use tch::Tensor;

use crate::error::ModelError;
use crate::many;
use crate::parameter::Parameter;

/// The averages, one for each parameter, or for each piece that this process keeps the weights of; of a parameter that is not trained, the
/// parameter itself.
#[derive(Debug)]
pub(crate) struct Average {
    /// average ← decay · average + (1 − decay) · weight.
    decay: f64,
    pub values: Vec<Tensor>,
}

impl Average {
    /// Begins with the weights as they are: those of the parameters, or of `pieces`.
    pub fn new(decay: f64, parameters: &[Parameter], pieces: Option<&[Tensor]>) -> Result<Self, ModelError> {
        if !(0.0..1.0).contains(&decay) {
            return Err(ModelError::input("decay of the averaged weights", decay, "0 or more, below 1"));
        }
        let copy = |tensor: &Tensor| {
            let mut copy = tensor.f_detach()?.f_zeros_like()?;
            copy.f_copy_(&tensor.f_detach()?)?;
            Ok::<_, ModelError>(copy)
        };
        let of = |parameter: &Parameter| {
            if parameter.trainable { copy(&parameter.tensor) } else { Ok(parameter.tensor.shallow_clone()) }
        };
        let values = match pieces {
            Some(pieces) => pieces.iter().map(copy).collect::<Result<_, _>>()?,
            None => parameters.iter().map(of).collect::<Result<_, _>>()?,
        };
        Ok(Self { decay, values })
    }

    /// Takes in the weights of one more update.
    pub fn add(&mut self, parameters: &[Parameter]) -> Result<(), ModelError> {
        for (average, parameter) in self.values.iter_mut().zip(parameters).filter(|(_, p)| p.trainable) {
            let _ = average.f_lerp_(&parameter.tensor.f_detach()?, 1.0 - self.decay)?;
        }
        Ok(())
    }

    /// As [`Average::add`], of pieces.
    pub fn add_pieces(&mut self, pieces: &[Tensor]) -> Result<(), ModelError> {
        for (average, weights) in self.values.iter_mut().zip(pieces) {
            let _ = average.f_lerp_(weights, 1.0 - self.decay)?;
        }
        Ok(())
    }

    /// As [`Average::add`] where `skip`, a number on the device, is 0; nothing changes where it is 1.
    pub fn add_unless(&mut self, skip: &Tensor, parameters: &[Parameter]) -> Result<(), ModelError> {
        let weight = skip.f_mul_scalar(self.decay - 1.0)?.f_add_scalar(1.0 - self.decay)?;
        let trained = self.values.iter().zip(parameters).filter(|(_, parameter)| parameter.trainable);
        let pairs = trained.map(|(average, parameter)| (average.shallow_clone(), parameter.tensor.shallow_clone()));
        let (averages, weights): (Vec<Tensor>, Vec<Tensor>) = pairs.unzip();
        many::lerp_all(&averages, &weights, &weight)
    }
}
