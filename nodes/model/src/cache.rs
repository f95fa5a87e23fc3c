//! The KV cache: keys and values of the positions read so far, and which positions a forward computes again.

use std::ops::Range;

use tch::Tensor;

use crate::attention::Target;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::kernel::cached::{Lane, Place, Shape, Slab};
use crate::replays::Replays;

/// Capacities are a multiple of this where shapes are to stand still.
const STEP: usize = 64;

/// Keys and values of all layers for some sequences ("lanes") of at most `capacity` positions.
#[derive(Debug)]
pub(crate) struct Cache {
    pub shape: Shape,
    pub storage: Storage,
    /// Forwards over it that were recorded.
    pub replays: Replays,
}

/// Where they lie.
#[derive(Debug)]
pub(crate) enum Storage {
    /// For the CPU kernel, one slab a layer.
    Host(Vec<Slab>),
    /// For torch, per layer keys and values `[lanes · capacity, Hkv, d]`.
    Torch(Vec<(Tensor, Tensor)>),
    /// For a plug-in's model, which keeps no keys and values: what has been read, by lane.
    Texts(Vec<Text>),
}

/// What has been read of a lane.
#[derive(Debug, Clone, Default)]
pub(crate) struct Text {
    pub tokens: Vec<i64>,
    /// Which positions each one attends to.
    pub seen: Vec<Range<usize>>,
}

impl Text {
    /// Takes a token; positions come in order, or are there already.
    pub fn set(&mut self, position: usize, token: i64, seen: Range<usize>) {
        if position >= self.tokens.len() {
            self.tokens.resize(position + 1, 0);
            self.seen.resize(position + 1, 0..0);
        }
        self.tokens[position] = token;
        self.seen[position] = seen;
    }

    fn first(&self, count: usize) -> Self {
        Self { tokens: self.tokens[..count].to_vec(), seen: self.seen[..count].to_vec() }
    }
}

impl Cache {
    /// An empty cache.
    pub fn new(config: &ModelConfig, size: (usize, usize), target: Target) -> Result<Self, ModelError> {
        Self::of_layers(config.layers, config, size, target)
    }

    /// For a forward that computes everything: all layers share the room of one.
    pub fn passing(config: &ModelConfig, size: (usize, usize), target: Target) -> Result<Self, ModelError> {
        Self::of_layers(1, config, size, target)
    }

    fn of_layers(
        layers: usize,
        config: &ModelConfig,
        (lanes, capacity): (usize, usize),
        target: Target,
    ) -> Result<Self, ModelError> {
        // Caches of about the same size are alike, so that they have forwards in common.
        let capacity = if target.fixed_shapes { capacity.next_multiple_of(STEP) } else { capacity };
        let shape =
            Shape { lanes, capacity, heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let storage = if target.fused {
            Storage::Host((0..layers).map(|_| Slab::new(&shape)).collect())
        } else {
            let size = [(lanes * capacity) as i64, config.kv_heads as i64, config.head_dim as i64];
            let empty = || Tensor::f_zeros(size, (target.kind, target.device));
            Storage::Torch((0..layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_, ModelError>>()?)
        };
        let recorded = target.device.is_cuda() && target.fixed_shapes && config.experts.is_none();
        Ok(Self { shape, storage, replays: Replays::new(recorded) })
    }

    /// Makes room for at least `lanes` sequences of `capacity` positions; what is kept stays.
    pub fn grow(&mut self, (lanes, capacity): (usize, usize)) -> Result<(), ModelError> {
        let old = self.shape;
        let step = if self.replays.fixed_shapes() { STEP } else { 1 };
        let capacity = capacity.max(old.capacity).next_multiple_of(step);
        let shape = Shape { lanes: lanes.max(old.lanes), capacity, ..old };
        if shape == old {
            return Ok(());
        }
        self.replays.forget();
        match &mut self.storage {
            Storage::Host(slabs) => slabs.iter_mut().for_each(|slab| slab.grow(&old, &shape)),
            Storage::Torch(layers) => {
                let (h, d) = (shape.kv_heads as i64, shape.head_dim as i64);
                let wider = |tensor: &Tensor| -> Result<Tensor, ModelError> {
                    let size = [shape.lanes as i64, shape.capacity as i64, h, d];
                    let wide = Tensor::f_zeros(size, (tensor.kind(), tensor.device()))?;
                    let (lanes, capacity) = (old.lanes as i64, old.capacity as i64);
                    let mut part = wide.f_narrow(0, 0, lanes)?.f_narrow(1, 0, capacity)?;
                    part.f_copy_(&tensor.f_view((lanes, capacity, h, d))?)?;
                    Ok(wide.f_flatten(0, 1)?)
                };
                for (keys, values) in layers {
                    (*keys, *values) = (wider(keys)?, wider(values)?);
                }
            }
            Storage::Texts(texts) => texts.resize(shape.lanes, Text::default()),
        }
        self.shape = shape;
        Ok(())
    }

    /// Forgets a lane for another sequence, but for its first `known` positions, which are those of lane `from`; without any, nothing
    /// happens when there is no such lane yet.
    pub fn begin(&mut self, lane: usize, from: usize, known: usize) -> Result<(), ModelError> {
        if lane >= self.shape.lanes && known == 0 {
            return Ok(());
        }
        self.grow((lane + 1, known))?;
        let shape = self.shape;
        match &mut self.storage {
            Storage::Host(slabs) => slabs.iter_mut().for_each(|slab| slab.begin(&shape, lane, from, known)),
            Storage::Torch(layers) => {
                let (to, source) = ((lane * shape.capacity) as i64, (from * shape.capacity) as i64);
                let (known, rest) = (known as i64, (shape.capacity - known) as i64);
                for tensor in layers.iter().flat_map(|(keys, values)| [keys, values]) {
                    if lane != from {
                        tensor.f_narrow(0, to, known)?.f_copy_(&tensor.f_narrow(0, source, known)?)?;
                    }
                    let _ = tensor.f_narrow(0, to + known, rest)?.f_zero_()?;
                }
            }
            Storage::Texts(texts) => texts[lane] = texts[from].first(known),
        }
        Ok(())
    }

    /// Bytes that keys and values take.
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Host(slabs) => slabs.iter().map(Slab::bytes).sum(),
            Storage::Torch(layers) => {
                let of = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
                layers.iter().map(|(keys, values)| of(keys) + of(values)).sum()
            }
            Storage::Texts(texts) => texts.iter().map(|text| text.tokens.len() * size_of::<i64>()).sum(),
        }
    }

    /// Room for the texts of some lanes.
    pub fn of_texts((lanes, capacity): (usize, usize)) -> Self {
        let shape = Shape { lanes, capacity, heads: 0, kv_heads: 0, head_dim: 0 };
        Self { shape, storage: Storage::Texts(vec![Text::default(); lanes]), replays: Replays::new(false) }
    }
}

/// The positions that a forward computes, and those whose hidden state is wanted. Lanes follow each other.
#[derive(Debug, Default, Clone)]
pub(crate) struct Active {
    /// Token ids of the places.
    pub tokens: Vec<i64>,
    pub places: Vec<Place>,
    /// Indices of places, in order.
    pub wanted: Vec<i64>,
    pub lanes: Vec<Lane>,
    /// The length that rotary embedding with dynamic scaling goes by; `None`: the capacity of the cache.
    pub rotary_length: Option<usize>,
}

impl Active {
    /// Adds positions of a lane that has none yet. `seen` says what a position attends to where there is no window, `wanted` which of them are asked for,
    /// in order.
    pub fn add(
        &mut self,
        lane: usize,
        tokens: impl Iterator<Item = (usize, u32)>,
        seen: impl Fn(usize) -> Range<usize>,
        wanted: impl Iterator<Item = usize>,
    ) {
        let (places, queries) = (self.places.len(), self.wanted.len());
        for (position, token) in tokens {
            self.tokens.push(i64::from(token));
            self.places.push(Place { lane, position, seen: seen(position) });
        }
        // Positions of a lane follow each other without gaps.
        let first = self.places.get(places).map_or(0, |place| place.position);
        self.wanted.extend(wanted.map(|position| (places + position - first) as i64));
        self.lanes.push(Lane { places: places..self.places.len(), queries: queries..self.wanted.len() });
    }
}
