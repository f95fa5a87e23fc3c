//! What computes a model's forwards: difflow's own decoder, or the forward of a plug-in.
//!
//! A plug-in returns logits and no hidden states. Its "hidden states" are logits, and the norm and output head leave
//! them unchanged, so losses and decoding are written only once.

use tch::Tensor;

use crate::arithmetic::Arithmetic;
use crate::attention::{Attention, Target};
use crate::cache::{Active, Cache};
use crate::caught::caught;
use crate::config::ModelConfig;
use crate::decoder::{Decoder, Seen};
use crate::error::ModelError;
use crate::foreign::Foreign;

/// Either of the two.
#[derive(Debug)]
pub(crate) enum Network {
    Own(Box<Decoder>),
    Foreign(Box<Foreign>),
}

impl Network {
    /// Where attention is computed, for [`Attention::new`].
    pub fn target(&self, how: Arithmetic) -> Target {
        match self {
            Self::Own(decoder) => decoder.target(how),
            Self::Foreign(foreign) => foreign.target(),
        }
    }

    /// Hidden states before the last norm, `[B·L, D]`, of token ids `[B, L]` (i64). `train` is for a plug-in, whose arithmetic is its own.
    pub fn hidden(
        &self,
        tokens: &Tensor,
        attention: &Attention,
        how: Arithmetic,
        train: bool,
    ) -> Result<Tensor, ModelError> {
        match self {
            Self::Own(decoder) => decoder.hidden(tokens, attention, how),
            Self::Foreign(foreign) => foreign.whole(tokens, attention, train),
        }
    }

    /// As [`Network::hidden`], of some rows, `wanted` `[n]` (i64): `[n, D]`.
    pub fn hidden_of(
        &self,
        tokens: &Tensor,
        attention: &Attention,
        how: Arithmetic,
        train: bool,
        wanted: &Tensor,
    ) -> Result<Tensor, ModelError> {
        match self {
            Self::Own(decoder) => decoder.hidden_of(tokens, attention, how, wanted),
            Self::Foreign(foreign) => Ok(foreign.whole(tokens, attention, train)?.f_index_select(0, wanted)?),
        }
    }

    /// As [`Network::hidden`], and shows what is behind each layer to `seen`.
    ///
    /// # Errors
    /// With a plug-in, which does not say them.
    pub fn layers(
        &self,
        tokens: &Tensor,
        attention: &Attention,
        how: Arithmetic,
        seen: &mut Seen<'_>,
    ) -> Result<Tensor, ModelError> {
        match self {
            Self::Own(decoder) => decoder.layers(tokens, attention, how, seen),
            Self::Foreign(_) => Err(ModelError::Torch("a plug-in's model does not say its layers".to_owned())),
        }
    }

    /// An empty cache for `size` = (lanes, positions of each), as [`Cache::new`].
    pub fn cache(&self, config: &ModelConfig, size: (usize, usize), how: Arithmetic) -> Result<Cache, ModelError> {
        match self {
            Self::Own(decoder) => Cache::new(config, size, decoder.target(how)),
            Self::Foreign(_) => Ok(Cache::of_texts(size)),
        }
    }

    /// Hidden states before the last norm, `[W, D]`, of the wanted places.
    pub fn partial(&self, active: &Active, cache: &mut Cache, how: Arithmetic) -> Result<Tensor, ModelError> {
        caught(|| match self {
            Self::Own(decoder) => decoder.partial(active, cache, how),
            Self::Foreign(foreign) => foreign.partial(active, cache),
        })
    }

    /// As [`Network::partial`], of texts that have all their places in `active`, `capacity` at most; nothing is kept.
    pub fn whole(&self, active: &Active, capacity: usize, how: Arithmetic) -> Result<Tensor, ModelError> {
        caught(|| match self {
            Self::Own(decoder) => decoder.whole(active, capacity, how),
            Self::Foreign(foreign) => {
                let active = &active.numbered_anew();
                foreign.partial(active, &mut Cache::of_texts((active.lanes.len(), capacity)))
            }
        })
    }

    /// The last norm, on rows that will meet the output head.
    pub fn normed(&self, rows: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        match self {
            Self::Own(decoder) => decoder.normed(rows, how),
            Self::Foreign(_) => Ok(rows.shallow_clone()),
        }
    }

    /// Logits `[n, V]` (fp32) of normed rows.
    pub fn logits(&self, normed: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        match self {
            Self::Own(decoder) => decoder.logits(normed, how),
            Self::Foreign(_) => Ok(normed.shallow_clone()),
        }
    }

    /// Our own decoder, where it is the one.
    pub fn own(&self) -> Option<&Decoder> {
        match self {
            Self::Own(decoder) => Some(decoder),
            Self::Foreign(_) => None,
        }
    }
}
