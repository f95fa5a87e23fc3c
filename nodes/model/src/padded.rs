//! How torch computes the attention of an [`Active`] set over a cache: queries padded to `[lanes, Q]`, with a bias for what is not seen.
//!
//! All numbers that a forward reads are in one tensor, which one copy brings to the device. Where shapes are to stand still, places, lanes and
//! Q are rounded up, and as many places are wanted as there are: the last of each stands there again, and what comes of it is not read.

use std::ops::Range;

use tch::{Kind, Tensor};

use crate::attention::additive;
use crate::cache::Active;
use crate::error::ModelError;
use crate::kernel::cached::{Lane, Shape};

/// With the same sizes, forwards over the same cache are the same operations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sizes {
    places: usize,
    wanted: usize,
    lanes: usize,
    /// Q of all blocks but the last, and of the last, which computes the wanted places only.
    queries: [usize; 2],
    capacity: usize,
    /// The windows of all blocks, each once, and that of the last.
    windows: [Vec<Option<usize>>; 2],
    pub rotary_length: usize,
}

/// A stretch of a lane.
type OfLane = fn(&Lane) -> &Range<usize>;

/// The numbers of a forward, on the host.
#[derive(Debug)]
pub(crate) struct Numbers {
    pub sizes: Sizes,
    pub values: Vec<i64>,
}

impl Numbers {
    /// `windows` are those of the layers.
    pub fn new(active: &Active, shape: &Shape, windows: &[Option<usize>], fixed_shapes: bool) -> Self {
        let room = |count: usize| if fixed_shapes { room(count) } else { count };
        let all: Vec<i64> = (0..active.places.len() as i64).collect();
        let widest = |of: OfLane| active.lanes.iter().map(|lane| of(lane).len()).max().unwrap_or(0);
        let mut distinct: Vec<Option<usize>> = Vec::new();
        windows.iter().for_each(|window| {
            if !distinct.contains(window) {
                distinct.push(*window);
            }
        });
        // How many places are wanted changes with each forward of a decode: the last block may as well be computed for all of them.
        let of_last = |all: usize, last: usize| if fixed_shapes { all } else { last };
        let (places, width) = (room(active.places.len()), room(widest(|lane| &lane.places)));
        let sizes = Sizes {
            places,
            wanted: of_last(places, active.wanted.len()),
            lanes: room(active.lanes.len()),
            queries: [width, of_last(width, widest(|lane| &lane.queries))],
            capacity: shape.capacity,
            windows: [distinct, windows.last().copied().into_iter().collect()],
            rotary_length: active.rotary_length.unwrap_or(shape.capacity),
        };
        let mut values = Vec::new();
        let mut add = |mut part: Vec<i64>, count: usize| {
            let last = part.last().copied().unwrap_or(0);
            part.resize(count, last);
            values.extend(part);
        };
        let of_places = |number: &dyn Fn(usize) -> i64| (0..active.places.len()).map(number).collect::<Vec<_>>();
        let place = |at: usize| &active.places[at];
        add(active.tokens.clone(), sizes.places);
        add(of_places(&|at| place(at).position as i64), sizes.places);
        add(of_places(&|at| (place(at).lane * shape.capacity + place(at).position) as i64), sizes.places);
        add(active.wanted.clone(), sizes.wanted);
        let lanes = (0..sizes.lanes).filter_map(|number| active.lanes.get(number).or(active.lanes.last()));
        let cached = lanes.flat_map(|lane| {
            let first = place(lane.places.start).lane * shape.capacity;
            (first..first + shape.capacity).map(|row| row as i64)
        });
        add(cached.collect(), sizes.lanes * shape.capacity);
        let ways: [(&[i64], OfLane, usize); 2] =
            [(&all, |lane| &lane.places, sizes.places), (&active.wanted, |lane| &lane.queries, sizes.wanted)];
        for (number, (queries, of, count)) in ways.into_iter().enumerate() {
            let (width, last) = (sizes.queries[number], active.lanes.len().saturating_sub(1));
            let (mut spread, mut gather) = (Vec::new(), Vec::new());
            for row in 0..sizes.lanes {
                let Some(lane) = active.lanes.get(row.min(last)).map(of) else { continue };
                for column in 0..width {
                    // Padding repeats the lane's first query.
                    let query = lane.clone().nth(column).unwrap_or(lane.start);
                    spread.push(queries.get(query).copied().unwrap_or(0));
                    if row <= last && column < lane.len() {
                        gather.push((row * width + column) as i64);
                    }
                }
            }
            let seen: Vec<Vec<Range<usize>>> = sizes.windows[number]
                .iter()
                .map(|&window| spread.iter().map(|&query| place(query as usize).seen(window)).collect())
                .collect();
            add(spread, sizes.lanes * width);
            add(gather, count);
            for seen in seen {
                add(seen.iter().map(|seen| seen.start as i64).collect(), sizes.lanes * width);
                add(seen.iter().map(|seen| seen.end as i64).collect(), sizes.lanes * width);
            }
        }
        Self { sizes, values }
    }
}

/// A count rounded up, to one of four numbers between a power of two and the next.
fn room(count: usize) -> usize {
    count.next_multiple_of((count.next_power_of_two() / 8).max(1))
}

/// The numbers of a forward, as a device reads them.
pub(crate) struct Reading {
    /// `[1, N]`.
    pub tokens: Tensor,
    pub positions: Tensor,
    /// Where the keys of the places go, `[N]`.
    pub slots: Tensor,
    /// Places, `[W]`.
    pub wanted: Tensor,
    /// Cached rows of the lanes, `[lanes · capacity]`.
    pub rows: Tensor,
    pub all: Padded,
    pub last: Padded,
}

/// The queries of a block.
pub(crate) struct Padded {
    /// Place of each row of padded queries, `[lanes · Q]`, and back, `[queries]`.
    pub spread: Tensor,
    pub gather: Tensor,
    /// `[lanes, 1, Q, capacity]`, for each window that a layer has.
    biases: Vec<(Option<usize>, Tensor)>,
    /// (lanes, Q).
    pub size: (i64, i64),
}

impl Reading {
    /// `numbers` are [`Numbers::values`], and `kind` that of the biases.
    pub fn new(numbers: &Tensor, sizes: &Sizes, kind: Kind) -> Result<Self, ModelError> {
        let mut at = 0;
        let mut take = |count: usize| -> Result<Tensor, ModelError> {
            let part = numbers.f_narrow(0, at, count as i64)?;
            at += count as i64;
            Ok(part)
        };
        let row = |part: Tensor| Ok::<_, ModelError>(part.f_view((1, -1))?);
        let (tokens, positions) = (row(take(sizes.places)?)?, row(take(sizes.places)?)?);
        let (slots, wanted, rows) = (take(sizes.places)?, take(sizes.wanted)?, take(sizes.lanes * sizes.capacity)?);
        let keys = Tensor::f_arange(sizes.capacity as i64, (Kind::Int64, numbers.device()))?;
        let mut padded = |number: usize, count: usize| -> Result<Padded, ModelError> {
            let (width, size) = (sizes.queries[number], (sizes.lanes as i64, sizes.queries[number] as i64));
            let (spread, gather) = (take(sizes.lanes * width)?, take(count)?);
            let mut biases = Vec::new();
            for &window in &sizes.windows[number] {
                let mut bound = || Ok::<_, ModelError>(take(sizes.lanes * width)?.f_view((size.0, 1, size.1, 1))?);
                let (starts, ends) = (bound()?, bound()?);
                let visible = keys.f_ge_tensor(&starts)?.f_logical_and(&keys.f_lt_tensor(&ends)?)?;
                biases.push((window, additive(&visible, kind)?));
            }
            Ok(Padded { spread, gather, biases, size })
        };
        let (all, last) = (padded(0, sizes.places)?, padded(1, sizes.wanted)?);
        Ok(Self { tokens, positions, slots, wanted, rows, all, last })
    }
}

impl Padded {
    /// The bias of a window. Errors if it was made without.
    pub fn bias(&self, window: Option<usize>) -> Result<Tensor, ModelError> {
        let found = self.biases.iter().find(|(known, _)| *known == window);
        let missing = || ModelError::Torch(format!("no bias was made for the window {window:?}"));
        Ok(found.ok_or_else(missing)?.1.shallow_clone())
    }
}

#[cfg(test)]
mod tests {
    use super::room;

    #[test]
    fn counts_are_rounded_up_by_a_quarter_at_most() {
        assert_eq!([0, 1, 3, 5, 8, 9, 11, 33, 100, 1000].map(room), [0, 1, 3, 5, 8, 10, 12, 40, 112, 1024]);
        assert!((1..3000).all(|count| room(count) >= count && 4 * room(count) <= 5 * count));
    }
}
