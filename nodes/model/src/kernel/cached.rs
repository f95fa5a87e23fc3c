//! Attention of some positions over the cached keys and values of their sequence, for decoding, where most of a
//! sequence has been processed before.
//!
//! Sequences may have different numbers of positions to compute; nothing is padded. A task is one sequence ("lane")
//! and one key head with its group of query heads: it writes the keys and values of its positions into the cache,
//! then processes (query, head) pairs in blocks of 32.

use std::ops::Range;

use crate::error::ModelError;
use crate::kernel::aligned::Aligned;
use crate::kernel::attention::{Rotary, softmax, turn};
use crate::kernel::gemm::{Size, Strided, gemm};
use crate::kernel::scores::Scores;
use crate::kernel::{Out, dispatch};
use crate::shim::parallel;

/// (query, head) pairs handled together.
const BLOCK: usize = 32;
/// Multiplications worth a thread of their own.
const THREAD_WORK: usize = 1 << 17;

/// Sizes of a cache and of the heads that use it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    pub lanes: usize,
    /// Most positions of a lane.
    pub capacity: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Shape {
    fn columns(&self) -> usize {
        self.capacity.next_multiple_of(16)
    }

    fn dim(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }

    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// Keys `[lanes, Hkv, d, capacity]` and values `[lanes, Hkv, capacity, d]` of one layer, padded with zeros to whole vectors.
#[derive(Debug)]
pub(crate) struct Slab {
    keys: Aligned,
    values: Aligned,
}

impl Slab {
    pub fn new(shape: &Shape) -> Self {
        let size = shape.lanes * shape.kv_heads * shape.columns() * shape.dim();
        Self { keys: Aligned::zeros(size), values: Aligned::zeros(size) }
    }

    /// Its memory, for threads that write it side by side.
    pub fn room(&mut self) -> Room {
        Room { keys: Out(self.keys.as_mut_ptr()), values: Out(self.values.as_mut_ptr()) }
    }

    /// Moves what is kept into the places of a larger shape.
    pub fn grow(&mut self, old: &Shape, new: &Shape) {
        let mut wide = Self::new(new);
        let (from, to, dim) = (old.columns(), new.columns(), new.dim());
        for (keys, row) in wide.keys.chunks_mut(to.max(1)).zip(self.keys.chunks(from.max(1))) {
            keys[..row.len()].copy_from_slice(row);
        }
        for (values, rows) in wide.values.chunks_mut((to * dim).max(1)).zip(self.values.chunks((from * dim).max(1))) {
            values[..rows.len()].copy_from_slice(rows);
        }
        *self = wide;
    }

    /// Zeros in a lane, but for its first `known` positions, which are those of lane `from`: what is not seen has weight 0, and 0 times
    /// an infinity that a sequence left behind would not be 0.
    pub fn begin(&mut self, shape: &Shape, lane: usize, from: usize, known: usize) {
        let (columns, dim) = (shape.columns().max(1), shape.dim().max(1));
        let size = shape.kv_heads * columns * dim;
        let (to, from) = (lane * size, from * size);
        for (all, row, kept) in [(&mut self.keys, columns, known), (&mut self.values, columns * dim, known * dim)] {
            for start in (0..size).step_by(row) {
                all.copy_within(from + start..from + start + kept, to + start);
                all[to + start + kept..to + start + row].fill(0.0);
            }
        }
    }

    /// Infinities from a position of a lane on.
    #[cfg(test)]
    pub fn spoil(&mut self, shape: &Shape, lane: usize, from: usize) {
        let (columns, dim) = (shape.columns(), shape.dim());
        let size = shape.kv_heads * columns * dim;
        self.keys[lane * size..(lane + 1) * size].chunks_mut(columns).for_each(|row| row[from..].fill(f32::INFINITY));
        let values = self.values[lane * size..(lane + 1) * size].chunks_mut(columns * dim);
        values.for_each(|rows| rows[from * dim..].fill(f32::INFINITY));
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<f32>()
    }
}

/// A slab that several threads work on, each on lanes of its own.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    keys: Out,
    values: Out,
}

/// One position to be computed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub lane: usize,
    pub position: usize,
    /// The positions of its lane that it attends to where there is no window; not empty.
    pub seen: Range<usize>,
}

impl Place {
    /// What it attends to through a window.
    pub fn seen(&self, window: Option<usize>) -> Range<usize> {
        let oldest = window.map_or(0, |window| (self.position + 1).saturating_sub(window));
        self.seen.start.max(oldest)..self.seen.end
    }
}

/// The positions of one lane: parts of the places and of the queries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lane {
    pub places: Range<usize>,
    pub queries: Range<usize>,
}

/// What one call computes. Places and queries of a lane stand together, lanes in the same order in both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub places: &'a [Place],
    /// Indices of the places whose attention is wanted.
    pub queries: &'a [i64],
    pub lanes: &'a [Lane],
    pub rotary: &'a Rotary,
    pub scores: Scores,
    pub window: Option<usize>,
}

/// Writes the keys and values of the places of a projection `[N, (H + 2·Hkv)·d]` into a slab, and the attention of the
/// queries into `out` `[Q, H·d]`.
///
/// # Safety
/// The room is that of a slab of this shape, which is still there, and nobody else uses the lanes of the places.
pub(crate) unsafe fn forward(
    shape: Shape,
    work: Work,
    room: Room,
    qkv: &[f32],
    out: &mut [f32],
) -> Result<(), ModelError> {
    let task = Task { shape, work, qkv, room, out: Out(out.as_mut_ptr()) };
    let each = work.queries.len().max(1) * shape.heads * shape.capacity * shape.head_dim
        / (work.lanes.len() * shape.kv_heads).max(1);
    parallel(work.lanes.len() * shape.kv_heads, THREAD_WORK / each.max(1), |begin, end| {
        let mut scratch = Scratch::default();
        for number in begin..end {
            attend(&task, &work.lanes[number / shape.kv_heads], number % shape.kv_heads, &mut scratch);
        }
    })
}

struct Task<'a> {
    shape: Shape,
    work: Work<'a>,
    qkv: &'a [f32],
    room: Room,
    out: Out,
}

impl Task<'_> {
    /// One head of one place in the projection, by its number among queries, keys and values.
    #[inline(always)]
    fn head(&self, place: usize, number: usize) -> &[f32] {
        let at = place * self.shape.width() + number * self.shape.head_dim;
        &self.qkv[at..at + self.shape.head_dim]
    }
}

/// Working memory of one thread.
#[derive(Default)]
struct Scratch {
    turned: Vec<f32>,
    queries: Aligned,
    scores: Aligned,
    product: Aligned,
}

fn attend(task: &Task, lane: &Lane, kv: usize, scratch: &mut Scratch) {
    dispatch! { attend<S>(task: &Task, lane: &Lane, kv: usize, scratch: &mut Scratch) {
        let (shape, work) = (task.shape, task.work);
        let (d, dim, length) = (shape.head_dim, shape.dim(), shape.columns());
        let Some(first) = work.places.get(lane.places.start) else { return };
        let start = (first.lane * shape.kv_heads + kv) * dim * length;
        // SAFETY: this task alone uses this lane's part of this head, `dim * length` numbers of each.
        let (keys, values) = unsafe {
            (std::slice::from_raw_parts_mut(task.room.keys.at(start), dim * length),
             std::slice::from_raw_parts_mut(task.room.values.at(start), dim * length))
        };
        scratch.turned.resize(d, 0.0);
        for number in lane.places.clone() {
            let at = work.places[number].position;
            turn(work.rotary, at, task.head(number, shape.heads + kv), &mut scratch.turned, 1.0, false);
            keys[at..].iter_mut().step_by(length).zip(&scratch.turned).for_each(|(key, x)| *key = *x);
            values[at * dim..at * dim + d].copy_from_slice(task.head(number, shape.heads + shape.kv_heads + kv));
        }
        let (group, queries) = (shape.heads / shape.kv_heads, lane.queries.len());
        let scale = work.scores.scale;
        let total = group * queries;
        let room = total.min(BLOCK).next_multiple_of(8);
        scratch.queries.resize(room * dim);
        scratch.scores.resize(room * length);
        scratch.product.resize(room * dim);
        for from in (0..total).step_by(BLOCK) {
            let block = from..(from + BLOCK).min(total);
            // Pair number r: query r mod Q of head r div Q, so that neighbours see about the same.
            let pair = |r: usize| (lane.queries.start + r % queries, kv * group + r / queries);
            let (mut low, mut high) = (length, 0);
            for r in block.clone() {
                let (query, h) = pair(r);
                let place = work.queries[query] as usize;
                let to = &mut scratch.queries[(r - from) * dim..(r - from) * dim + d];
                turn(work.rotary, work.places[place].position, task.head(place, h), to, scale, false);
                let seen = work.places[place].seen(work.window);
                low = low.min(seen.start);
                high = high.max(seen.end);
            }
            let columns = low / 16 * 16..high.next_multiple_of(16);
            let rows = block.len().next_multiple_of(8);
            // SAFETY: the scratch has room for the rows of a block, and the columns are whole vectors inside the lane's capacity.
            unsafe {
                let a = Strided { at: scratch.queries.as_ptr(), row: dim, column: 1 };
                let size = Size { rows, depth: d, columns: columns.len() };
                let (b, c) = (keys.as_ptr().add(columns.start), scratch.scores.as_mut_ptr().add(columns.start));
                gemm::<S, false>(size, a, (b, length), (c, length));
            }
            let mut sums = [1f32; BLOCK];
            for r in block.clone() {
                let seen = work.places[work.queries[pair(r).0] as usize].seen(work.window);
                let scores = &mut scratch.scores[(r - from) * length..(r - from + 1) * length];
                // SAFETY: as above.
                unsafe { work.scores.cap::<S>(std::slice::from_ref(&columns), scores) };
                scores[columns.start..seen.start].fill(f32::NEG_INFINITY);
                scores[seen.end..columns.end].fill(f32::NEG_INFINITY);
                // SAFETY: as above.
                sums[r - from] = unsafe { softmax::<S>(scores, std::slice::from_ref(&columns)).0 };
            }
            // SAFETY: as above.
            unsafe {
                let a = Strided { at: scratch.scores.as_ptr().add(columns.start), row: length, column: 1 };
                let size = Size { rows, depth: columns.len(), columns: dim };
                let (b, c) = ((values.as_ptr().add(columns.start * dim), dim), (scratch.product.as_mut_ptr(), dim));
                match dim % S::LANES {
                    0 => gemm::<S, false>(size, a, b, c),
                    _ => gemm::<S::Eight, false>(size, a, b, c),
                }
            }
            for r in block {
                let (query, h) = pair(r);
                let inverse = 1.0 / sums[r - from];
                // SAFETY: this task alone writes the heads of its group of its lane's queries.
                let to = unsafe { std::slice::from_raw_parts_mut(task.out.at((query * shape.heads + h) * d), d) };
                for (to, x) in to.iter_mut().zip(&scratch.product[(r - from) * dim..][..d]) {
                    *to = x * inverse;
                }
            }
        }
    }}
}
