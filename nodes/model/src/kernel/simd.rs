//! Vectors of fp32 lanes for the CPU kernels: AVX-512, AVX2, and plain arrays where neither is available.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// `LANES` fp32 numbers.
///
/// # Safety
/// Of all functions: pointers must be good for `LANES` values, and the instruction set must be there (the dispatch in `kernel::level`
/// sees to it).
pub(crate) trait Simd: Copy {
    const LANES: usize;
    /// Eight lanes of the same instruction set, for heads whose size is no multiple of `LANES`.
    type Eight: Simd;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(at: *const f32) -> Self;
    unsafe fn store(self, at: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    /// self · a + b, rounded once where the machine can.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// eˣ to about 2 ulp; exactly 0 for x below −87 (also −∞), NaN for NaN.
    unsafe fn exp(self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// Lanes whose bit in `bits` (lane 0 the lowest) is 0 become −∞. Reads `LANES` bits.
    unsafe fn keep(self, bits: *const u8) -> Self;

    /// 1 / (1 + e⁻ˣ).
    #[inline(always)]
    unsafe fn sigmoid(self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe {
            let one = Self::splat(1.0);
            one.div(one.add(Self::splat(0.0).sub(self).exp()))
        }
    }

    /// tanh x to some ulp: a series of x / 32, doubled five times.
    #[inline(always)]
    unsafe fn tanh(self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe {
            // Beyond it tanh is 1. The bound comes first, so that NaN stays NaN.
            let (bound, zero) = (Self::splat(-9.2), Self::splat(0.0));
            let x = zero.sub(bound.max(zero.sub(bound.max(self)))).mul(Self::splat(1.0 / 32.0));
            let (square, mut series) = (x.mul(x), Self::splat(TANH[0]));
            for c in &TANH[1..] {
                series = series.fma(square, Self::splat(*c));
            }
            let mut t = series.mul(square).fma(x, x);
            for _ in 0..5 {
                t = t.add(t).div(t.fma(t, Self::splat(1.0)));
            }
            t
        }
    }

    /// Sum of the lanes, halves first: the same order on every machine with the same lanes.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as the trait asks of every caller.
        unsafe { fold(self, |a, b| a + b) }
    }

    /// Largest lane.
    #[inline(always)]
    unsafe fn top(self) -> f32 {
        // SAFETY: as the trait asks of every caller.
        unsafe { fold(self, f32::max) }
    }
}

/// # Safety
/// As the trait.
#[inline(always)]
unsafe fn fold<S: Simd>(x: S, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    // SAFETY: as the trait asks of every caller.
    unsafe { x.store(lanes.as_mut_ptr()) };
    let mut width = S::LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

// eˣ = 2ⁿ · e^r with r in [−ln2/2, ln2/2]: the polynomial of Cephes' expf.
const LOG2E: f32 = std::f32::consts::LOG2_E;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
const TAYLOR: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
const LOWEST: f32 = -87.0;
// tanh x = x + x³ · these in x², the last first.
const TANH: [f32; 5] = [-8.863_236e-3, 2.186_948_8e-2, -5.396_825_4e-2, 1.333_333_3e-1, -3.333_333_3e-1];
#[cfg(target_arch = "x86_64")]
const HIGHEST: f32 = 88.0;

/// # Safety
/// As the trait.
#[inline(always)]
unsafe fn exp_of_remainder<S: Simd>(r: S) -> S {
    // SAFETY: as the trait asks of every caller.
    unsafe {
        let mut poly = S::splat(TAYLOR[0]);
        for c in &TAYLOR[1..] {
            poly = poly.fma(r, S::splat(*c));
        }
        poly.fma(r.mul(r), r).add(S::splat(1.0))
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for __m512 {
    const LANES: usize = 16;
    type Eight = __m256;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_storeu_ps(at, self) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_add_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_sub_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_mul_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_div_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_max_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_fmadd_ps(self, a, b) }
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe {
            let seen = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self, Self::splat(LOWEST));
            let n = _mm512_roundscale_ps::<0x08>(self.mul(Self::splat(LOG2E)));
            let r = n.fma(Self::splat(-LN2_LOW), n.fma(Self::splat(-LN2_HIGH), self));
            _mm512_maskz_mov_ps(seen, _mm512_scalef_ps(exp_of_remainder(r), n))
        }
    }
    #[inline(always)]
    unsafe fn top(self) -> f32 {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm512_reduce_max_ps(self) }
    }
    #[inline(always)]
    unsafe fn keep(self, bits: *const u8) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe {
            let mask = bits.cast::<u16>().read_unaligned();
            _mm512_mask_mov_ps(Self::splat(f32::NEG_INFINITY), mask, self)
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for __m256 {
    const LANES: usize = 8;
    type Eight = Self;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm256_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm256_storeu_ps(at, self) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm256_add_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm256_sub_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm256_mul_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm256_div_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm256_max_ps(self, other) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe { _mm256_fmadd_ps(self, a, b) }
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe {
            let seen = _mm256_cmp_ps::<_CMP_NLT_UQ>(self, Self::splat(LOWEST));
            // Clamped to what an exponent can hold; a sigmoid may ask for e⁸⁸ and more, and e⁸⁸ is large enough for it.
            let x = _mm256_min_ps(Self::splat(HIGHEST), self);
            let n = _mm256_round_ps::<0x08>(x.max(Self::splat(LOWEST)).mul(Self::splat(LOG2E)));
            let r = n.fma(Self::splat(-LN2_LOW), n.fma(Self::splat(-LN2_HIGH), x));
            let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
            _mm256_and_ps(seen, exp_of_remainder(r).mul(_mm256_castsi256_ps(power)))
        }
    }
    #[inline(always)]
    unsafe fn keep(self, bits: *const u8) -> Self {
        // SAFETY: as the trait asks of every caller.
        unsafe {
            let lane = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
            let set = _mm256_and_si256(_mm256_set1_epi32(i32::from(*bits)), lane);
            let kept = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane));
            _mm256_blendv_ps(Self::splat(f32::NEG_INFINITY), self, kept)
        }
    }
}

/// Eight lanes without special instructions.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Simd for Plain {
    const LANES: usize = 8;
    type Eight = Self;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: as the trait asks of every caller.
        Self(unsafe { at.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as the trait asks of every caller.
        unsafe { at.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, f32::max)
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        self.zip(a, |x, a| x * a).zip(b, |x, b| x + b)
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        Self(self.0.map(|x| if x < LOWEST { 0.0 } else { x.exp() }))
    }
    #[inline(always)]
    unsafe fn keep(self, bits: *const u8) -> Self {
        // SAFETY: as the trait asks of every caller.
        let bits = unsafe { *bits };
        Self(std::array::from_fn(|i| if bits >> i & 1 == 1 { self.0[i] } else { f32::NEG_INFINITY }))
    }
}
