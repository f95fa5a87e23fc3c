//! A weight of a forward: fp32 master values and, where torch's operations compute in bf16, the same rounded once instead of in each
//! forward.

use tch::{Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::error::ModelError;
use crate::shim::attach;

/// Rows of a rounded matrix are filled up to a multiple of this where they are the columns of a product: a GPU multiplies others at a
/// third of the speed (measured on an H100: 771 TFLOP/s with 50,304 tokens, 259 with 50,258).
const ALIGNED: i64 = 64;

/// Values of a leaf of the model.
#[derive(Debug)]
pub(crate) struct Weight {
    /// fp32; bf16 where it is not trained and [`crate::Model::round_base`] was asked for.
    pub master: Tensor,
    /// bf16, and perhaps with rows of zeros at the end.
    rounded: Option<Tensor>,
}

impl From<Tensor> for Weight {
    fn from(master: Tensor) -> Self {
        Self { master, rounded: None }
    }
}

impl Weight {
    /// The same tensors.
    pub fn share(&self) -> Self {
        Self { master: self.master.shallow_clone(), rounded: self.rounded.as_ref().map(Tensor::shallow_clone) }
    }

    /// Keeps rounded values from now on: those of the master as it is. Whoever changes the master copies them anew ([`Weight::pair`]).
    pub fn round(&mut self) -> Result<(), ModelError> {
        self.round_to(1)
    }

    /// As [`Weight::round`], with rows filled up.
    pub fn round_aligned(&mut self) -> Result<(), ModelError> {
        self.round_to(ALIGNED)
    }

    fn round_to(&mut self, multiple: i64) -> Result<(), ModelError> {
        let mut size = self.master.size();
        size[0] = (size[0] + multiple - 1) / multiple * multiple;
        if self.master.kind() == Kind::BFloat16 && size == self.master.size() {
            return Ok(());
        }
        let rounded = Tensor::f_zeros(&size, (Kind::BFloat16, self.master.device()))?;
        rounded.f_narrow(0, 0, self.master.size()[0])?.f_copy_(&self.master.f_detach()?)?;
        self.rounded = Some(rounded);
        Ok(())
    }

    /// The rounded values to be written and the master that they are of; `None` where none are kept.
    pub fn pair(&self) -> Result<Option<(Tensor, Tensor)>, ModelError> {
        let Some(rounded) = &self.rounded else { return Ok(None) };
        Ok(Some((rounded.f_narrow(0, 0, self.master.size()[0])?, self.master.f_detach()?)))
    }

    /// For the product of a forward, in the kind of its arithmetic; with gradients for the master.
    pub fn of(&self, how: Arithmetic) -> Result<Tensor, ModelError> {
        match self.kept(how) {
            Some(rounded) if rounded.size() == self.master.size() => {
                attach(rounded.f_detach()?, &[&self.master], |gradient| {
                    Ok(vec![Some(gradient.f_to_kind(Kind::Float)?)])
                })
            }
            _ => Ok(self.master.f_to_kind(how.kind())?),
        }
    }

    /// The values that a product rounds to the kind of its arithmetic, if they are not yet; without gradients.
    pub fn values(&self, how: Arithmetic) -> Result<Tensor, ModelError> {
        match self.kept(how) {
            Some(rounded) => Ok(rounded.shallow_clone()),
            None => Ok(self.master.f_detach()?),
        }
    }

    /// As [`Weight::of`] without gradients, and with the rows that were filled up.
    pub fn filled(&self, how: Arithmetic) -> Result<Tensor, ModelError> {
        match self.kept(how) {
            Some(rounded) => Ok(rounded.shallow_clone()),
            None => Ok(self.master.f_detach()?.f_to_kind(how.kind())?),
        }
    }

    fn kept(&self, how: Arithmetic) -> Option<&Tensor> {
        self.rounded.as_ref().filter(|_| how.kind() == Kind::BFloat16 && !how.kernels)
    }
}
