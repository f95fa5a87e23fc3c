//! The tables of a decoder's rotary embeddings, which are kept from one forward to the next of the same length.

use std::sync::{MutexGuard, PoisonError};

use tch::Tensor;

use super::Decoder;
use crate::config::{Layer, Positions};
use crate::error::ModelError;
use crate::rotary::Rotary;

impl Decoder {
    /// Cosines and sines of a layer's embedding: `[L, 1, size/2]` for positions `0..length`, or `[B, n, 1, size/2]` for given positions.
    pub(crate) fn rotary_tables(
        &self,
        layer: Layer,
        length: usize,
        positions: Option<&Tensor>,
    ) -> Result<Option<(Tensor, Tensor)>, ModelError> {
        self.with_rotary(layer, length, |rotary| {
            let half = rotary.cos.size()[1];
            let pick = |table: &Tensor| match positions {
                None => table.f_view((length as i64, 1, half)),
                Some(positions) => {
                    let (rows, new) = positions.size2()?;
                    table.f_index_select(0, &positions.f_flatten(0, 1)?)?.f_view((rows, new, 1, half))
                }
            };
            Ok((pick(&rotary.cos)?, pick(&rotary.sin)?))
        })
    }

    /// The tables of the rotary embeddings that are kept now, on the device.
    pub(crate) fn tables(&self) -> Vec<Tensor> {
        self.kept_rotary().iter().flat_map(|rotary| [rotary.cos.shallow_clone(), rotary.sin.shallow_clone()]).collect()
    }

    /// What `take` gives for each rotary embedding of the model.
    pub(crate) fn rotaries<T>(
        &self,
        take: impl Fn(Layer) -> Result<Option<T>, ModelError>,
    ) -> Result<Vec<T>, ModelError> {
        let count = match &self.config.positions {
            Positions::Rotary(ropes) => ropes.len(),
            Positions::Learned => 0,
        };
        (0..count).filter_map(|rope| take(Layer { rope: Some(rope), ..Layer::default() }).transpose()).collect()
    }

    /// Whether a layer's rotary embedding, where it has one, turns all dimensions of a head.
    pub(crate) fn turns_whole_heads(&self, layer: Layer) -> bool {
        match (&self.config.positions, layer.rope) {
            (Positions::Rotary(ropes), Some(rope)) => ropes[rope].size == self.config.head_dim,
            _ => true,
        }
    }

    /// The tables of a length of a layer's rotary embedding, kept for the next call of the same length. `None` for a layer without one.
    pub(crate) fn with_rotary<T>(
        &self,
        layer: Layer,
        length: usize,
        take: impl FnOnce(&Rotary) -> Result<T, ModelError>,
    ) -> Result<Option<T>, ModelError> {
        let (Positions::Rotary(ropes), Some(rope)) = (&self.config.positions, layer.rope) else { return Ok(None) };
        let mut kept = self.kept_rotary();
        if kept.first().is_none_or(|found| found.length != length) {
            let made = ropes.iter().map(|rope| Rotary::new(rope, length, self.device()));
            *kept = made.collect::<Result<_, _>>()?;
        }
        let missing = || ModelError::Torch(format!("no rotary embedding {rope}"));
        Ok(Some(take(kept.get(rope).ok_or_else(missing)?)?))
    }

    /// The tables of the last length; whole whoever panicked while holding them, for they are replaced as a whole.
    pub(super) fn kept_rotary(&self) -> MutexGuard<'_, Vec<Rotary>> {
        self.rotary.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
