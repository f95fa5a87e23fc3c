//! Rotary embedding and attention in one kernel, forward and backward, directly on the `[B·L, (H + 2·Hkv)·d]` output
//! of the query-key-value projection.
//!
//! A task is one row of the batch and one key head with its group of query heads. Keys and values are laid out once
//! per task; queries are processed in blocks of 32. Whatever a block cannot see at all (according to the visibility's
//! tiles) is never computed. The backward pass recomputes probabilities from the log-sum of the forward pass, as
//! flash attention does (arXiv 2307.08691).
//!
//! This file is longer than most: the two directions share layout, blocks and masks, and are read side by side.

use std::ops::Range;
use std::sync::Arc;

use crate::attention::Positions;
use crate::error::ModelError;
use crate::kernel::aligned::Aligned;
use crate::kernel::gemm::{Size, Strided, gemm};
use crate::kernel::scores::Scores;
use crate::kernel::simd::Simd;
use crate::kernel::{Out, dispatch, sizes};
use crate::shim::parallel;
use crate::visibility::{BLOCK, VECTOR, Visibility};

/// Sizes of one attention call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    pub rows: usize,
    pub length: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Shape {
    /// Columns of the projection.
    pub fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn padded_length(&self) -> usize {
        self.length.next_multiple_of(VECTOR)
    }

    fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }
}

/// Everything that both directions read besides the projection.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub shape: Shape,
    pub scores: Scores,
    pub visibility: Arc<Visibility>,
    pub positions: Positions,
    pub rotary: Rotary,
}

impl Plan {
    /// Errors if projection, output or visibility have other sizes than the plan says.
    fn fits(&self, qkv: &[f32], out: &[f32]) -> Result<(), ModelError> {
        let (shape, tokens) = (self.shape, self.shape.rows * self.shape.length);
        sizes(&[
            (qkv.len(), tokens * shape.width()),
            (out.len(), tokens * shape.heads * shape.head_dim),
            (self.visibility.length(), shape.length),
        ])
    }
}

/// Cosines and sines of the position ids, `[span, half]` each: the pairs (i, i + half) of a head are turned, what is behind them is not.
#[derive(Debug)]
pub(crate) struct Tables {
    pub half: usize,
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

/// `None` without rotary embedding.
pub(crate) type Rotary = Option<Arc<Tables>>;

/// Attention output `[B·L, H·d]` and log-sums `[B, H, L]`, both written in full.
pub(crate) fn forward(plan: &Plan, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) -> Result<(), ModelError> {
    let shape = plan.shape;
    let tokens = shape.rows * shape.length;
    plan.fits(qkv, out)?;
    sizes(&[(log_sums.len(), tokens * shape.heads)])?;
    let (out, log_sums) = (Out(out.as_mut_ptr()), Out(log_sums.as_mut_ptr()));
    parallel(shape.rows * shape.kv_heads, 1, |begin, end| {
        let mut scratch = Scratch::new(&shape, false);
        for task in begin..end {
            let (row, kv) = (task / shape.kv_heads, task % shape.kv_heads);
            // SAFETY: the arrays have the plan's sizes, and tasks have other rows or heads.
            unsafe { forward_task(plan, row, kv, qkv, out, log_sums, &mut scratch) };
        }
    })
}

/// Gradient of the projection `[B·L, (H + 2·Hkv)·d]`, written in full, from that of the output.
pub(crate) fn backward(
    plan: &Plan,
    qkv: &[f32],
    out: &[f32],
    log_sums: &[f32],
    out_gradient: &[f32],
    gradient: &mut [f32],
) -> Result<(), ModelError> {
    let shape = plan.shape;
    plan.fits(qkv, out)?;
    let log_sums_wanted = shape.rows * shape.length * shape.heads;
    sizes(&[(log_sums.len(), log_sums_wanted), (out_gradient.len(), out.len()), (gradient.len(), qkv.len())])?;
    let gradient = Out(gradient.as_mut_ptr());
    parallel(shape.rows * shape.kv_heads, 1, |begin, end| {
        let mut scratch = Scratch::new(&shape, true);
        for task in begin..end {
            let saved = Saved { qkv, out, log_sums, out_gradient };
            let (row, kv) = (task / shape.kv_heads, task % shape.kv_heads);
            // SAFETY: as above.
            unsafe { backward_task(plan, row, kv, saved, gradient, &mut scratch) };
        }
    })
}

/// What the backward pass reads.
#[derive(Clone, Copy)]
struct Saved<'a> {
    qkv: &'a [f32],
    out: &'a [f32],
    log_sums: &'a [f32],
    out_gradient: &'a [f32],
}

/// Working memory of one thread. "Across" is `[d, L]`, "down" is `[L, d]`, padded with zeros.
struct Scratch {
    keys_across: Aligned,
    keys_down: Aligned,
    values_across: Aligned,
    values_down: Aligned,
    keys_gradient: Aligned,
    values_gradient: Aligned,
    /// One block of queries and of output gradients, `[BLOCK, d]`.
    queries: Aligned,
    outputs: Aligned,
    product: Aligned,
    /// `[BLOCK, L]`.
    scores: Aligned,
    slopes: Aligned,
    /// `[L]`, of one query: the slope of its soft cap.
    steep: Aligned,
}

impl Scratch {
    fn new(shape: &Shape, backward: bool) -> Self {
        let (across, block) = (shape.padded_dim() * shape.padded_length(), BLOCK * shape.padded_dim());
        let if_backward = |size: usize| Aligned::zeros(if backward { size } else { 0 });
        Self {
            keys_across: Aligned::zeros(across),
            keys_down: if_backward(across),
            values_across: if_backward(across),
            values_down: Aligned::zeros(across),
            keys_gradient: if_backward(across),
            values_gradient: if_backward(across),
            queries: Aligned::zeros(block),
            outputs: if_backward(block),
            product: Aligned::zeros(block),
            scores: Aligned::zeros(BLOCK * shape.padded_length()),
            slopes: if_backward(BLOCK * shape.padded_length()),
            steep: if_backward(shape.padded_length()),
        }
    }
}

/// Turns the pairs of one head by the position's angles, times `scale`; `back` turns the other way.
#[inline(always)]
pub(super) fn turn(rotary: &Rotary, position: usize, from: &[f32], to: &mut [f32], scale: f32, back: bool) {
    let Some(tables) = rotary else {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from * scale);
        return;
    };
    let half = tables.half;
    let cos = &tables.cos[position * half..(position + 1) * half];
    let sin = &tables.sin[position * half..(position + 1) * half];
    let sign = if back { -scale } else { scale };
    to[2 * half..].iter_mut().zip(&from[2 * half..]).for_each(|(to, from)| *to = from * scale);
    let (a, b) = from[..2 * half].split_at(half);
    let (to_a, to_b) = to[..2 * half].split_at_mut(half);
    for i in 0..half {
        to_a[i] = a[i] * cos[i] * scale - b[i] * sin[i] * sign;
        to_b[i] = b[i] * cos[i] * scale + a[i] * sin[i] * sign;
    }
}

/// One head of one position in the projection, by its number among queries, keys and values.
#[inline(always)]
fn head<'a>(shape: &Shape, matrix: &'a [f32], row: usize, position: usize, number: usize) -> &'a [f32] {
    let at = (row * shape.length + position) * shape.width() + number * shape.head_dim;
    &matrix[at..at + shape.head_dim]
}

/// Fills `scores` with q·k for a block of queries over the given columns.
///
/// # Safety
/// `left` is `[BLOCK, d]`, `right` `[d, L]` and `to` `[BLOCK, L]`, all padded, with the columns inside L; and the instruction set.
#[inline(always)]
unsafe fn products<S: Simd>(shape: &Shape, left: &[f32], right: &[f32], columns: &Range<usize>, to: &mut [f32]) {
    let (dim, length) = (shape.padded_dim(), shape.padded_length());
    let a = Strided { at: left.as_ptr(), row: dim, column: 1 };
    let size = Size { rows: BLOCK, depth: shape.head_dim, columns: columns.len() };
    // SAFETY: the caller's.
    unsafe {
        let b = right.as_ptr().add(columns.start);
        gemm::<S, false>(size, a, (b, length), (to.as_mut_ptr().add(columns.start), length));
    }
}

/// `product` = scores · matrix, over the tiles of the scores: `[BLOCK, d]`.
///
/// # Safety
/// `scores` is `[BLOCK, L]`, `down` `[L, d]` and `product` `[BLOCK, d]`, all padded, with the tiles inside L; and the instruction set.
#[inline(always)]
unsafe fn collect<S: Simd>(shape: &Shape, scores: &[f32], down: &[f32], tiles: &[Range<usize>], product: &mut [f32]) {
    let (dim, length) = (shape.padded_dim(), shape.padded_length());
    for (number, tile) in tiles.iter().enumerate() {
        let size = Size { rows: BLOCK, depth: tile.end.min(shape.length) - tile.start, columns: dim };
        // SAFETY: the caller's.
        unsafe {
            let a = Strided { at: scores.as_ptr().add(tile.start), row: length, column: 1 };
            let (b, c) = ((down.as_ptr().add(tile.start * dim), dim), (product.as_mut_ptr(), dim));
            match (dim % S::LANES, number) {
                (0, 0) => gemm::<S, false>(size, a, b, c),
                (0, _) => gemm::<S, true>(size, a, b, c),
                (_, 0) => gemm::<S::Eight, false>(size, a, b, c),
                (_, _) => gemm::<S::Eight, true>(size, a, b, c),
            }
        }
    }
}

/// Scores of the tiles that the query may not see become −∞.
///
/// # Safety
/// `scores` has the padded length, with the tiles inside; and the instruction set.
#[inline(always)]
unsafe fn hide<S: Simd>(plan: &Plan, row: usize, i: usize, tiles: &[Range<usize>], scores: &mut [f32]) {
    // A tile holds a stretch whole, or not at all; both are in order.
    let mut stretches = plan.visibility.stretches(row, i).iter().peekable();
    for tile in tiles {
        let mut from = tile.start;
        while let Some(seen) = stretches.next_if(|seen| seen.start < tile.end) {
            scores[from..seen.start].fill(f32::NEG_INFINITY);
            from = seen.end;
        }
        scores[from..tile.end].fill(f32::NEG_INFINITY);
    }
    let Some(bits) = plan.visibility.bits() else { return };
    let bits = bits.row(i);
    for tile in tiles {
        for j in tile.clone().step_by(S::LANES) {
            // SAFETY: the caller's; tiles are whole vectors, and so are the bits of a row.
            unsafe {
                let at = scores.as_mut_ptr().add(j);
                S::load(at).keep(bits.as_ptr().add(j / 8)).store(at);
            }
        }
    }
}

/// One row of the batch and one key head with its group.
///
/// # Safety
/// The arrays have the sizes of the plan, and no other thread has the same row and head.
unsafe fn forward_task(
    plan: &Plan,
    row: usize,
    kv: usize,
    qkv: &[f32],
    out: Out,
    log_sums: Out,
    scratch: &mut Scratch,
) {
    dispatch! { forward_task<S>(plan: &Plan, row: usize, kv: usize, qkv: &[f32], out: Out, log_sums: Out, scratch: &mut Scratch) {
        let shape = plan.shape;
        let (dim, length, d) = (shape.padded_dim(), shape.padded_length(), shape.head_dim);
        let scale = plan.scores.scale;
        let mut turned = vec![0f32; d];
        for j in 0..shape.length {
            let key = head(&shape, qkv, row, j, shape.heads + kv);
            turn(&plan.rotary, plan.positions.of(j), key, &mut turned, 1.0, false);
            for (c, x) in turned.iter().enumerate() {
                scratch.keys_across[c * length + j] = *x;
            }
            let value = head(&shape, qkv, row, j, shape.heads + shape.kv_heads + kv);
            scratch.values_down[j * dim..j * dim + d].copy_from_slice(value);
        }
        let group = shape.heads / shape.kv_heads;
        for h in kv * group..(kv + 1) * group {
            for start in (0..shape.length).step_by(BLOCK) {
                let block = start..(start + BLOCK).min(shape.length);
                let tiles = plan.visibility.tiles(row, start / BLOCK);
                for i in block.clone() {
                    let (query, to) = (head(&shape, qkv, row, i, h), &mut scratch.queries[(i - start) * dim..][..d]);
                    turn(&plan.rotary, plan.positions.of(i), query, to, scale, false);
                }
                for tile in tiles {
                    // SAFETY: the scratch was made for the shape, and tiles are inside the padded length.
                    unsafe { products::<S>(&shape, &scratch.queries, &scratch.keys_across, tile, &mut scratch.scores) };
                }
                let mut sums = [0f32; BLOCK];
                for i in block.clone() {
                    let scores = &mut scratch.scores[(i - start) * length..(i - start + 1) * length];
                    // SAFETY: as above; the caller's for the log-sum.
                    unsafe {
                        plan.scores.cap::<S>(tiles, scores);
                        hide::<S>(plan, row, i, tiles, scores);
                        let (sum, log_sum) = softmax::<S>(scores, tiles);
                        sums[i - start] = sum;
                        *log_sums.at((row * shape.heads + h) * shape.length + i) = log_sum;
                    }
                }
                // SAFETY: as above.
                unsafe { collect::<S>(&shape, &scratch.scores, &scratch.values_down, tiles, &mut scratch.product) };
                for i in block {
                    let inverse = 1.0 / sums[i - start];
                    let place = ((row * shape.length + i) * shape.heads + h) * d;
                    // SAFETY: the caller's; this task alone writes the heads of its group, of its row.
                    let to = unsafe { std::slice::from_raw_parts_mut(out.at(place), d) };
                    for (to, x) in to.iter_mut().zip(&scratch.product[(i - start) * dim..][..d]) {
                        *to = x * inverse;
                    }
                }
            }
        }
    }}
}

/// Scores of the tiles become exponentials; their sum, and the logarithm of the sum before the maximum was taken off.
///
/// # Safety
/// The tiles are whole vectors inside `scores`; and the instruction set.
#[inline(always)]
pub(super) unsafe fn softmax<S: Simd>(scores: &mut [f32], tiles: &[Range<usize>]) -> (f32, f32) {
    // SAFETY: the caller's.
    unsafe {
        let at = scores.as_mut_ptr();
        let mut tops = S::splat(f32::NEG_INFINITY);
        for tile in tiles {
            for j in tile.clone().step_by(S::LANES) {
                tops = tops.max(S::load(at.add(j)));
            }
        }
        let top = tops.top();
        let mut sums = S::splat(0.0);
        for tile in tiles {
            for j in tile.clone().step_by(S::LANES) {
                let power = S::load(at.add(j)).sub(S::splat(top)).exp();
                power.store(at.add(j));
                sums = sums.add(power);
            }
        }
        let sum = sums.sum();
        (sum, top + sum.ln())
    }
}

/// One row of the batch and one key head with its group.
///
/// # Safety
/// As [`forward_task`].
unsafe fn backward_task(plan: &Plan, row: usize, kv: usize, saved: Saved, gradient: Out, scratch: &mut Scratch) {
    dispatch! { backward_task<S>(plan: &Plan, row: usize, kv: usize, saved: Saved, gradient: Out, scratch: &mut Scratch) {
        let shape = plan.shape;
        let (dim, length, d) = (shape.padded_dim(), shape.padded_length(), shape.head_dim);
        let scale = plan.scores.scale;
        for j in 0..shape.length {
            let down = &mut scratch.keys_down[j * dim..j * dim + d];
            turn(&plan.rotary, plan.positions.of(j), head(&shape, saved.qkv, row, j, shape.heads + kv), down, 1.0, false);
            let value = head(&shape, saved.qkv, row, j, shape.heads + shape.kv_heads + kv);
            for (c, v) in value.iter().enumerate() {
                scratch.keys_across[c * length + j] = scratch.keys_down[j * dim + c];
                scratch.values_across[c * length + j] = *v;
            }
        }
        scratch.keys_gradient.fill(0.0);
        scratch.values_gradient.fill(0.0);
        let group = shape.heads / shape.kv_heads;
        for h in kv * group..(kv + 1) * group {
            for start in (0..shape.length).step_by(BLOCK) {
                let block = start..(start + BLOCK).min(shape.length);
                let tiles = plan.visibility.tiles(row, start / BLOCK);
                // Rows beyond the end of the sequence must add nothing to the gradients of keys and values.
                scratch.queries.fill(0.0);
                scratch.outputs.fill(0.0);
                let mut deltas = [0f32; BLOCK];
                for i in block.clone() {
                    let at = (i - start) * dim;
                    let query = head(&shape, saved.qkv, row, i, h);
                    turn(&plan.rotary, plan.positions.of(i), query, &mut scratch.queries[at..at + d], scale, false);
                    let place = ((row * shape.length + i) * shape.heads + h) * d;
                    let slope = &saved.out_gradient[place..place + d];
                    scratch.outputs[at..at + d].copy_from_slice(slope);
                    deltas[i - start] = slope.iter().zip(&saved.out[place..place + d]).map(|(a, b)| a * b).sum();
                }
                for tile in tiles {
                    // SAFETY: the scratch was made for the shape, and tiles are inside the padded length.
                    unsafe {
                        products::<S>(&shape, &scratch.queries, &scratch.keys_across, tile, &mut scratch.scores);
                        products::<S>(&shape, &scratch.outputs, &scratch.values_across, tile, &mut scratch.slopes);
                    }
                }
                for i in start..start + BLOCK {
                    let scores = &mut scratch.scores[(i - start) * length..(i - start + 1) * length];
                    let slopes = &mut scratch.slopes[(i - start) * length..(i - start + 1) * length];
                    if i >= block.end {
                        tiles.iter().for_each(|tile| scores[tile.clone()].fill(0.0));
                        tiles.iter().for_each(|tile| slopes[tile.clone()].fill(0.0));
                        continue;
                    }
                    // SAFETY: as above.
                    unsafe {
                        plan.scores.cap::<S>(tiles, scores);
                        if let Some(cap) = plan.scores.cap {
                            Scores::slope::<S>(tiles, scores, cap, &mut scratch.steep);
                        }
                        hide::<S>(plan, row, i, tiles, scores);
                        let log_sum = S::splat(saved.log_sums[(row * shape.heads + h) * shape.length + i]);
                        let delta = S::splat(deltas[i - start]);
                        for tile in tiles {
                            for j in tile.clone().step_by(S::LANES) {
                                let (p_at, s_at) = (scores.as_mut_ptr().add(j), slopes.as_mut_ptr().add(j));
                                let p = S::load(p_at).sub(log_sum).exp();
                                p.store(p_at);
                                p.mul(S::load(s_at).sub(delta)).store(s_at);
                            }
                        }
                        if plan.scores.cap.is_some() {
                            for j in tiles.iter().flat_map(|tile| tile.clone().step_by(S::LANES)) {
                                let s_at = slopes.as_mut_ptr().add(j);
                                S::load(s_at).mul(S::load(scratch.steep.as_ptr().add(j))).store(s_at);
                            }
                        }
                    }
                }
                // SAFETY: as above.
                unsafe {
                    for (left, right, sum) in [
                        (&scratch.outputs, &scratch.scores, &mut scratch.values_gradient),
                        (&scratch.queries, &scratch.slopes, &mut scratch.keys_gradient),
                    ] {
                        let a = Strided { at: left.as_ptr(), row: 1, column: dim };
                        for tile in tiles {
                            let size = Size { rows: dim, depth: BLOCK, columns: tile.len() };
                            let b = (right.as_ptr().add(tile.start), length);
                            gemm::<S, true>(size, a, b, (sum.as_mut_ptr().add(tile.start), length));
                        }
                    }
                    collect::<S>(&shape, &scratch.slopes, &scratch.keys_down, tiles, &mut scratch.product);
                }
                for i in block {
                    let from = &scratch.product[(i - start) * dim..][..d];
                    // SAFETY: the caller's; this task alone writes the heads of its group, and the keys and values below, of its row.
                    let to = unsafe { std::slice::from_raw_parts_mut(gradient.at(place_of(&shape, row, i, h)), d) };
                    turn(&plan.rotary, plan.positions.of(i), from, to, scale, true);
                }
            }
        }
        let mut column = vec![0f32; d];
        for j in 0..shape.length {
            // SAFETY: as above; keys and values are other places.
            let write = |number| unsafe { std::slice::from_raw_parts_mut(gradient.at(place_of(&shape, row, j, number)), d) };
            for (c, x) in column.iter_mut().enumerate() {
                *x = scratch.keys_gradient[c * length + j];
            }
            turn(&plan.rotary, plan.positions.of(j), &column, write(shape.heads + kv), 1.0, true);
            let values = write(shape.heads + shape.kv_heads + kv);
            for (c, x) in values.iter_mut().enumerate() {
                *x = scratch.values_gradient[c * length + j];
            }
        }
    }}
}

/// Where one head of one position starts in the projection.
#[inline(always)]
fn place_of(shape: &Shape, row: usize, position: usize, number: usize) -> usize {
    (row * shape.length + position) * shape.width() + number * shape.head_dim
}
