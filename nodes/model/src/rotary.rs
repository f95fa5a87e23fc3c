//! A rotary embedding's tables for one sequence length, and what they turn.

use std::sync::Arc;

use tch::{Device, Tensor};

use crate::error::ModelError;
use crate::kernel::attention::Tables;
use crate::rope::Rope;

/// Cosines and sines of one sequence length, `[L, size / 2]`: for the kernels, and on the device.
#[derive(Debug)]
pub(crate) struct Rotary {
    /// The sequence length.
    pub length: usize,
    pub host: Arc<Tables>,
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rotary {
    /// Cosines and sines on the device, `[L, size/2]`.
    pub fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// The same tables.
    pub fn share(&self) -> Self {
        let (cos, sin) = (self.cos.shallow_clone(), self.sin.shallow_clone());
        Self { length: self.length, host: self.host.clone(), cos, sin }
    }

    /// Of a rotary embedding.
    pub fn new(rope: &Rope, length: usize, device: Device) -> Result<Self, ModelError> {
        let (cos, sin) = rope.tables(length);
        let half = rope.size / 2;
        let table = |values: &[f32]| -> Result<Tensor, ModelError> {
            Ok(Tensor::f_from_slice(values)?.f_view((length as i64, half as i64))?.f_to_device(device)?)
        };
        Ok(Self { length, cos: table(&cos)?, sin: table(&sin)?, host: Arc::new(Tables { half, cos, sin }) })
    }
}

/// Rotates the pairs (i, i + s/2) of the first s dimensions of `[B, L, n, d]`, for tables `[…, s/2]`: the layout of Hugging Face weights.
pub(crate) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor, ModelError> {
    let (size, half) = (x.size4()?.3, cos.size().last().copied().unwrap_or(0));
    let parts = match size - 2 * half {
        0 => x.f_split(half, 3)?,
        rest => x.f_split_with_sizes([half, half, rest], 3)?,
    };
    let (a, b) = (&parts[0], &parts[1]);
    let first = a.f_mul(cos)?.f_sub(&b.f_mul(sin)?)?;
    let second = b.f_mul(cos)?.f_add(&a.f_mul(sin)?)?;
    let mut turned = vec![first, second];
    if let Some(rest) = parts.get(2) {
        turned.push(rest.f_to_kind(turned[0].kind())?);
    }
    Ok(Tensor::f_cat(&turned, 3)?)
}
