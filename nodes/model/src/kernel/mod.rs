//! Kernels for the CPU in fp32: what libtorch does in many passes over memory, or with large-matrix code on small heads, in one.
//!
//! Each is a plain function over slices, tested against the same thing written with torch operations. Sums have a fixed order
//! that does not depend on the number of threads.

pub(crate) mod attention;
pub(crate) mod cached;
pub(crate) mod choice;
mod gemm;
pub(crate) mod pointwise;
mod simd;

/// Compiles a body for AVX-512, AVX2 and neither, and calls the best that this machine has. `S` names the vector type.
macro_rules! dispatch {
    ($name:ident<$s:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        #[inline(always)]
        unsafe fn generic<$s: $crate::kernel::simd::Simd>($($arg: $ty),*) $body

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx2,fma")]
        unsafe fn avx512($($arg: $ty),*) {
            unsafe { generic::<std::arch::x86_64::__m512>($($arg),*) }
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2($($arg: $ty),*) {
            unsafe { generic::<std::arch::x86_64::__m256>($($arg),*) }
        }

        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the instructions are there; the caller answers for the pointers.
            return unsafe { avx512($($arg),*) };
        } else if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { avx2($($arg),*) };
        }
        // SAFETY: no special instructions; the caller answers for the pointers.
        unsafe { generic::<$crate::kernel::simd::Plain>($($arg),*) }
    };
}
pub(crate) use dispatch;

/// A pointer that several threads write through, each to places of its own.
#[derive(Clone, Copy)]
pub(crate) struct Out(pub *mut f32);

// SAFETY: whoever writes through it keeps the threads apart.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    /// The pointer; a method, so that closures capture the whole wrapper.
    pub fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: callers stay inside the tensor.
        unsafe { self.0.add(offset) }
    }
}
