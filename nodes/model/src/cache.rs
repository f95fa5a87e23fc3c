//! The KV cache: keys and values of the positions read so far, and which positions a forward computes again.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::attention::{Target, additive};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::kernel::cached::{Lane, Place, Shape, Slab};

/// Keys and values of all layers for some sequences ("lanes") of at most `capacity` positions.
#[derive(Debug)]
pub(crate) struct Cache {
    pub shape: Shape,
    pub storage: Storage,
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
        let shape =
            Shape { lanes, capacity, heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let storage = if target.fused {
            Storage::Host((0..layers).map(|_| Slab::new(&shape)).collect())
        } else {
            let size = [(lanes * capacity) as i64, config.kv_heads as i64, config.head_dim as i64];
            let empty = || Tensor::f_zeros(size, (target.kind, target.device));
            Storage::Torch((0..layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_, ModelError>>()?)
        };
        Ok(Self { shape, storage })
    }

    /// Makes room for at least `lanes` sequences of `capacity` positions; what is kept stays.
    pub fn grow(&mut self, (lanes, capacity): (usize, usize)) -> Result<(), ModelError> {
        let old = self.shape;
        let shape = Shape { lanes: lanes.max(old.lanes), capacity: capacity.max(old.capacity), ..old };
        if shape == old {
            return Ok(());
        }
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
        Self { shape, storage: Storage::Texts(vec![Text::default(); lanes]) }
    }
}

/// The positions that a forward computes, and those whose hidden state is wanted. Lanes follow each other.
#[derive(Debug, Default)]
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

/// How torch computes the attention of an [`Active`] set: padded to `[lanes, Q]`, with a bias for what is not seen.
pub(crate) struct Padded {
    /// Where the keys of the places go, `[N]`.
    pub slots: Tensor,
    /// Place of each row of padded queries, `[lanes · Q]`, and back, `[queries]`.
    pub spread: Tensor,
    pub gather: Tensor,
    /// Cached rows of the lanes, `[lanes · capacity]`.
    pub rows: Tensor,
    /// `[lanes, 1, Q, capacity]`, for each window that a layer has.
    pub biases: Vec<(Option<usize>, Tensor)>,
    pub size: (i64, i64),
}

impl Padded {
    pub fn new(
        active: &Active,
        queries: &[i64],
        widths: impl Fn(&Lane) -> Range<usize>,
        shape: &Shape,
        windows: &[Option<usize>],
        (kind, device): (Kind, Device),
    ) -> Result<Self, ModelError> {
        let lanes: Vec<Range<usize>> = active.lanes.iter().map(widths).collect();
        let widest = lanes.iter().map(Range::len).max().unwrap_or(0);
        let (mut spread, mut gather, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (number, lane) in lanes.iter().enumerate() {
            let of = active.places[active.lanes[number].places.start].lane;
            rows.extend((0..shape.capacity).map(|at| (of * shape.capacity + at) as i64));
            for column in 0..widest {
                // Padding repeats the lane's first query; its result is not gathered.
                let query = lane.clone().nth(column).unwrap_or(lane.start);
                let place = queries.get(query).copied().unwrap_or(0);
                spread.push(place);
                if column < lane.len() {
                    gather.push((number * widest + column) as i64);
                }
            }
        }
        let slots: Vec<i64> =
            active.places.iter().map(|place| (place.lane * shape.capacity + place.position) as i64).collect();
        let index = |values: &[i64]| Ok::<_, ModelError>(Tensor::f_from_slice(values)?.f_to_device(device)?);
        let size = (lanes.len() as i64, widest as i64);
        let mut biases: Vec<(Option<usize>, Tensor)> = Vec::new();
        for &window in windows {
            if biases.iter().any(|(known, _)| *known == window) {
                continue;
            }
            let mut visible = vec![false; spread.len() * shape.capacity];
            for (&place, row) in spread.iter().zip(visible.chunks_mut(shape.capacity)) {
                row[active.places[place as usize].seen(window)].fill(true);
            }
            let visible = Tensor::f_from_slice(&visible)?.f_view((size.0, 1, size.1, shape.capacity as i64))?;
            biases.push((window, additive(&visible.f_to_device(device)?, kind)?));
        }
        Ok(Self {
            slots: index(&slots)?,
            spread: index(&spread)?,
            gather: index(&gather)?,
            rows: index(&rows)?,
            biases,
            size,
        })
    }

    /// The bias of a window. Errors if it was made without.
    pub fn bias(&self, window: Option<usize>) -> Result<Tensor, ModelError> {
        let found = self.biases.iter().find(|(known, _)| *known == window);
        let missing = || ModelError::Torch(format!("no bias was made for the window {window:?}"));
        Ok(found.ok_or_else(missing)?.1.shallow_clone())
    }
}
