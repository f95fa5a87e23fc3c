//! RMS norm, gated activation and cross-entropy, each in one forward and one backward pass.

use crate::error::ModelError;
use crate::kernel::{Out, dispatch, sizes};
use crate::shim::parallel;

/// Rows of a part whose weight gradient is summed before the parts are: fixed, so that sums do not depend on threads.
const PART: usize = 256;

/// y = x / rms(x) · w over rows of `w.len()`; keeps 1/rms of each row.
pub(crate) fn rms_norm(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], inverse: &mut [f32]) -> Result<(), ModelError> {
    sizes(&[(y.len(), x.len()), (inverse.len() * w.len(), x.len())])?;
    let (y, inverse, width) = (Out(y.as_mut_ptr()), Out(inverse.as_mut_ptr()), w.len());
    parallel(x.len() / width, 64, |begin, end| {
        for row in begin..end {
            // SAFETY: rows are apart, and each is inside its array.
            unsafe {
                let y = std::slice::from_raw_parts_mut(y.at(row * width), width);
                *inverse.at(row) = norm_row(&x[row * width..(row + 1) * width], w, eps, y);
            }
        }
    })
}

fn norm_row(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> f32 {
    let inverse = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = x * inverse * w;
    }
    inverse
}

/// Gradients of `rms_norm`: of x, written in full, and of w, returned.
pub(crate) fn rms_norm_backward(
    x: &[f32],
    w: &[f32],
    inverse: &[f32],
    y_gradient: &[f32],
    x_gradient: &mut [f32],
) -> Result<Vec<f32>, ModelError> {
    let (width, rows) = (w.len(), inverse.len());
    sizes(&[(x.len(), rows * width), (y_gradient.len(), rows * width), (x_gradient.len(), rows * width)])?;
    let parts = rows.div_ceil(PART);
    let mut sums = vec![0f32; parts * width];
    let (to, out) = (Out(sums.as_mut_ptr()), Out(x_gradient.as_mut_ptr()));
    parallel(parts, 1, |begin, end| {
        for part in begin..end {
            // SAFETY: parts are apart, and so are their rows.
            let sum = unsafe { std::slice::from_raw_parts_mut(to.at(part * width), width) };
            for row in part * PART..((part + 1) * PART).min(rows) {
                let (x, g) = (&x[row * width..(row + 1) * width], &y_gradient[row * width..(row + 1) * width]);
                // SAFETY: as above.
                let dx = unsafe { std::slice::from_raw_parts_mut(out.at(row * width), width) };
                let r = inverse[row];
                for ((dx, g), w) in dx.iter_mut().zip(g).zip(w) {
                    *dx = g * w;
                }
                let mean = dot(dx, x) / width as f32 * r * r;
                for (((dx, x), g), sum) in dx.iter_mut().zip(x).zip(g).zip(sum.iter_mut()) {
                    *dx = r * (*dx - x * mean);
                    *sum += g * x * r;
                }
            }
        }
    })?;
    let mut total = vec![0f32; width];
    for sum in sums.chunks(width) {
        total.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
    }
    Ok(total)
}

/// Dot product over sixteen lanes: a fixed order that vectorises.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// silu(gate) ⊙ up of rows `[gate | up]`, each half of `width` columns.
pub(crate) fn swiglu(gate_up: &[f32], width: usize, y: &mut [f32]) -> Result<(), ModelError> {
    sizes(&[(2 * y.len(), gate_up.len())])?;
    let y = Out(y.as_mut_ptr());
    parallel(gate_up.len() / (2 * width), 32, |begin, end| {
        for row in begin..end {
            // SAFETY: rows are apart.
            let y = unsafe { std::slice::from_raw_parts_mut(y.at(row * width), width) };
            let (gate, up) = gate_up[2 * row * width..2 * (row + 1) * width].split_at(width);
            swiglu_row(gate, up, y);
        }
    })
}

fn swiglu_row(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let (up, y) = (&up[..gate.len()], &mut y[..gate.len()]);
    dispatch! { swiglu_row<S>(gate: &[f32], up: &[f32], y: &mut [f32]) {
        let whole = gate.len() / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: `whole` vectors lie inside all three slices.
            unsafe {
                let (g, u) = (S::load(gate.as_ptr().add(i)), S::load(up.as_ptr().add(i)));
                g.mul(g.sigmoid()).mul(u).store(y.as_mut_ptr().add(i));
            }
        }
        for i in whole..gate.len() {
            y[i] = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
        }
    }}
}

/// Gradient of `[gate | up]`, written in full.
pub(crate) fn swiglu_backward(
    gate_up: &[f32],
    width: usize,
    y_gradient: &[f32],
    gradient: &mut [f32],
) -> Result<(), ModelError> {
    sizes(&[(2 * y_gradient.len(), gate_up.len()), (gradient.len(), gate_up.len())])?;
    let out = Out(gradient.as_mut_ptr());
    parallel(gate_up.len() / (2 * width), 32, |begin, end| {
        for row in begin..end {
            // SAFETY: rows are apart.
            let to = unsafe { std::slice::from_raw_parts_mut(out.at(2 * row * width), 2 * width) };
            let (gate, up) = gate_up[2 * row * width..2 * (row + 1) * width].split_at(width);
            swiglu_backward_row(gate, up, &y_gradient[row * width..(row + 1) * width], to);
        }
    })
}

fn swiglu_backward_row(gate: &[f32], up: &[f32], dy: &[f32], to: &mut [f32]) {
    let (up, dy, to) = (&up[..gate.len()], &dy[..gate.len()], &mut to[..2 * gate.len()]);
    dispatch! { swiglu_backward_row<S>(gate: &[f32], up: &[f32], dy: &[f32], to: &mut [f32]) {
        let width = gate.len();
        let (to_gate, to_up) = to.split_at_mut(width);
        let whole = width / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: `whole` vectors lie inside all slices.
            unsafe {
                let (g, u, d) = (S::load(gate.as_ptr().add(i)), S::load(up.as_ptr().add(i)), S::load(dy.as_ptr().add(i)));
                let s = g.sigmoid();
                let silu = g.mul(s);
                // silu' = σ + silu·(1 − σ)
                let slope = silu.fma(S::splat(1.0).sub(s), s);
                d.mul(u).mul(slope).store(to_gate.as_mut_ptr().add(i));
                d.mul(silu).store(to_up.as_mut_ptr().add(i));
            }
        }
        for i in whole..width {
            let s = 1.0 / (1.0 + (-gate[i]).exp());
            let silu = gate[i] * s;
            to_gate[i] = dy[i] * up[i] * (s + silu * (1.0 - s));
            to_up[i] = dy[i] * silu;
        }
    }}
}

/// Cross-entropy of each row of `logits` against its target. With `scale`, the logits become the gradient of
/// Σ scale · cross-entropy; without, they are left as they are.
pub(crate) fn cross_entropy(
    logits: &mut [f32],
    targets: &[i64],
    scale: Option<&[f32]>,
    losses: &mut [f32],
) -> Result<(), ModelError> {
    let width = logits.len() / targets.len().max(1);
    sizes(&[(logits.len(), width * targets.len()), (losses.len(), targets.len())])?;
    let (logits, losses) = (Out(logits.as_mut_ptr()), Out(losses.as_mut_ptr()));
    parallel(targets.len(), 8, |begin, end| {
        for row in begin..end {
            // SAFETY: rows are apart.
            unsafe {
                let logits = std::slice::from_raw_parts_mut(logits.at(row * width), width);
                *losses.at(row) = entropy_row(logits, targets[row] as usize, scale.map(|scale| scale[row]));
            }
        }
    })
}

fn entropy_row(logits: &mut [f32], target: usize, scale: Option<f32>) -> f32 {
    let mut loss = 0.0;
    entropy(logits, target, scale, &mut loss);
    loss
}

fn entropy(logits: &mut [f32], target: usize, scale: Option<f32>, loss: &mut f32) {
    dispatch! { entropy<S>(logits: &mut [f32], target: usize, scale: Option<f32>, loss: &mut f32) {
        let (at, whole) = (logits.as_mut_ptr(), logits.len() / S::LANES * S::LANES);
        // SAFETY: `whole` vectors lie inside the slice.
        unsafe {
            let mut tops = S::splat(f32::NEG_INFINITY);
            for i in (0..whole).step_by(S::LANES) {
                tops = tops.max(S::load(at.add(i)));
            }
            let top = logits[whole..].iter().fold(tops.top(), |a, &b| a.max(b));
            let shift = S::splat(top);
            let mut sums = S::splat(0.0);
            for i in (0..whole).step_by(S::LANES) {
                sums = sums.add(S::load(at.add(i)).sub(shift).exp());
            }
            let sum = logits[whole..].iter().fold(sums.sum(), |sum, &x| sum + (x - top).exp());
            *loss = sum.ln() + top - logits[target];
            let Some(scale) = scale else { return };
            let share = scale / sum;
            for i in (0..whole).step_by(S::LANES) {
                S::load(at.add(i)).sub(shift).exp().mul(S::splat(share)).store(at.add(i));
            }
            for x in &mut logits[whole..] {
                *x = (*x - top).exp() * share;
            }
            logits[target] -= scale;
        }
    }}
}
