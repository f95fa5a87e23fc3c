//! Small matrix products for attention: C (+)= A·B, vectorised over the columns of B and C.
//!
//! General libraries are designed for large matrices; a head has 8 to 128 columns, where their set-up costs more than
//! the arithmetic (measured: over half of a training step).

use crate::kernel::simd::Simd;

/// A matrix by pointer. Element (r, c) is `at[r · row + c · column]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub at: *const f32,
    pub row: usize,
    pub column: usize,
}

/// Sizes of a product: `rows` is a multiple of 8, `columns` of the lanes.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub rows: usize,
    pub depth: usize,
    pub columns: usize,
}

/// C = A·B, or C += A·B. B is `[depth, columns]` and C `[rows, columns]`, each with its row stride and unit column stride.
///
/// # Safety
/// All three matrices must be there in full, C apart from the others, and the instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn gemm<S: Simd, const ADD: bool>(
    size: Size,
    a: Strided,
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
) {
    let mut column = 0;
    // SAFETY: the caller's; each stripe stays inside `columns`.
    unsafe {
        // Sixteen accumulators either way; AVX2 has sixteen registers, so there eight.
        if S::LANES == 16 {
            while column + 4 * S::LANES <= size.columns {
                stripe::<S, 4, 4, ADD>(size, a, (b.add(column), b_row), (c.add(column), c_row));
                column += 4 * S::LANES;
            }
        }
        while column + 2 * S::LANES <= size.columns {
            stripe::<S, 4, 2, ADD>(size, a, (b.add(column), b_row), (c.add(column), c_row));
            column += 2 * S::LANES;
        }
        while column + S::LANES <= size.columns {
            stripe::<S, 8, 1, ADD>(size, a, (b.add(column), b_row), (c.add(column), c_row));
            column += S::LANES;
        }
    }
}

/// `VECTORS` vectors of columns, all rows.
///
/// # Safety
/// As [`gemm`].
#[inline(always)]
unsafe fn stripe<S: Simd, const ROWS: usize, const VECTORS: usize, const ADD: bool>(
    size: Size,
    a: Strided,
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
) {
    for row in (0..size.rows).step_by(ROWS) {
        // SAFETY: the caller's; `rows` is a multiple of ROWS.
        unsafe {
            let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
            let a_at = a.at.add(row * a.row);
            for k in 0..size.depth {
                let mut right = [S::splat(0.0); VECTORS];
                for (v, right) in right.iter_mut().enumerate() {
                    *right = S::load(b.add(k * b_row + v * S::LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let left = S::splat(*a_at.add(r * a.row + k * a.column));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = left.fma(right, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    let at = c.add((row + r) * c_row + v * S::LANES);
                    if ADD { S::load(at).add(*sum).store(at) } else { sum.store(at) }
                }
            }
        }
    }
}
