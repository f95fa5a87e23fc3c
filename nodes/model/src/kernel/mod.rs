//! CPU kernels in fp32: they do in one pass what libtorch does in many passes over memory, or with code for large
//! matrices on small heads.
//!
//! Each is a plain function over slices, tested against the same operation written with torch. Sums have a fixed
//! order that does not depend on the number of threads.

mod aligned;
pub(crate) mod attention;
pub(crate) mod cached;
pub(crate) mod choice;
mod gemm;
pub(crate) mod pointwise;
pub(crate) mod scores;
mod simd;

use crate::error::ModelError;

/// An instruction set that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Avx512,
    Avx2,
    Plain,
}

/// The best instruction set of this machine.
#[cfg(not(test))]
pub(crate) fn level() -> Level {
    best()
}

/// In tests, the one asked for by [`ASKED`] where this machine has it, so that all of them are tested.
#[cfg(test)]
pub(crate) fn level() -> Level {
    match (ASKED.load(std::sync::atomic::Ordering::Relaxed), best()) {
        (1, Level::Avx512) => Level::Avx2,
        (2, _) => Level::Plain,
        (_, best) => best,
    }
}

/// 0: the best, 1: AVX2, 2: no special instructions.
#[cfg(test)]
pub(crate) static ASKED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

#[cfg(target_arch = "x86_64")]
fn best() -> Level {
    let fma = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
    match fma {
        true if std::is_x86_feature_detected!("avx512f") => Level::Avx512,
        true => Level::Avx2,
        false => Level::Plain,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn best() -> Level {
    Level::Plain
}

/// Compiles a body for AVX-512, AVX2 and neither, and calls the best that this machine has. `S` names the vector type.
macro_rules! dispatch {
    ($name:ident<$s:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        // SAFETY of all three: the instruction set must be there, and what the body asks of its arguments must hold.
        #[inline(always)]
        unsafe fn generic<$s: $crate::kernel::simd::Simd>($($arg: $ty),*) $body

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx2,fma")]
        unsafe fn avx512($($arg: $ty),*) {
            // SAFETY: this function's own.
            unsafe { generic::<std::arch::x86_64::__m512>($($arg),*) }
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2($($arg: $ty),*) {
            // SAFETY: this function's own.
            unsafe { generic::<std::arch::x86_64::__m256>($($arg),*) }
        }

        #[cfg(target_arch = "x86_64")]
        match $crate::kernel::level() {
            // SAFETY: the instructions are there; the caller answers for the pointers.
            $crate::kernel::Level::Avx512 => return unsafe { avx512($($arg),*) },
            // SAFETY: as above.
            $crate::kernel::Level::Avx2 => return unsafe { avx2($($arg),*) },
            $crate::kernel::Level::Plain => {}
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
    ///
    /// # Safety
    /// `offset` must lie inside the array.
    pub unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe { self.0.add(offset) }
    }
}

/// Errors if an array has another size than wanted: pairs of found and wanted.
pub(crate) fn sizes(pairs: &[(usize, usize)]) -> Result<(), ModelError> {
    match pairs.iter().find(|(found, wanted)| found != wanted) {
        None => Ok(()),
        Some((found, wanted)) => Err(ModelError::input("array of a CPU kernel", found, wanted)),
    }
}
