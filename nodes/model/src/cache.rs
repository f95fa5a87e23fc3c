//! Keys and values of what has been read already, so that a new token costs one row of work.

use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::error::ModelError;

/// Per layer `[B, Hkv, capacity, d]`, allocated once.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Longest sequence the cache can hold; also the length that dynamic RoPE scaling is computed for.
    pub capacity: usize,
    /// Positions filled.
    pub length: i64,
    layers: Vec<(Tensor, Tensor)>,
}

impl Cache {
    pub fn new(
        config: &ModelConfig,
        rows: usize,
        capacity: usize,
        kind: Kind,
        device: Device,
    ) -> Result<Self, ModelError> {
        let size = [rows as i64, config.kv_heads as i64, capacity as i64, config.head_dim as i64];
        let empty = || Tensor::f_zeros(size, (kind, device));
        let layers = (0..config.layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_, ModelError>>()?;
        Ok(Self { capacity, length: 0, layers })
    }

    /// Writes the new keys and values behind the filled part and returns views of everything up to and including them.
    pub fn append(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor), ModelError> {
        let new = k.size4()?.2;
        let (keys, values) = &self.layers[layer];
        keys.f_narrow(2, self.length, new)?.f_copy_(k)?;
        values.f_narrow(2, self.length, new)?.f_copy_(v)?;
        let end = self.length + new;
        Ok((keys.f_narrow(2, 0, end)?, values.f_narrow(2, 0, end)?))
    }
}
