//! A batch lent to a plug-in over the C Data Interface.

use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::{Array, StructArray};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use difflow_plugin_abi::{ArrowArray, ArrowSchema};

// Two definitions of the same C structs; difflow's own calls of `release` may unwind.
const _: () = assert!(size_of::<FFI_ArrowArray>() == size_of::<ArrowArray>());
const _: () = assert!(size_of::<FFI_ArrowSchema>() == size_of::<ArrowSchema>());

/// A struct array lent to a plug-in. Its memory stays until this is dropped, and `release` only counts: a plug-in that forgets to
/// release its input, or does it twice, is then named instead of corrupting memory.
pub struct Lent {
    /// What the plug-in gets a pointer to.
    pub array: ArrowArray,
    releases: Box<AtomicU32>,
    _owner: FFI_ArrowArray,
}

impl Lent {
    /// Lends an array.
    pub fn new(array: &StructArray) -> Self {
        let owner = FFI_ArrowArray::new(&array.to_data());
        let releases = Box::new(AtomicU32::new(0));
        let private_data = (&raw const *releases).cast_mut().cast();
        // SAFETY: the same C struct. What the copy points to belongs to `owner`, which lives as long, and the copy's own release frees nothing.
        let shared = unsafe { (&raw const owner).cast::<ArrowArray>().read() };
        let array = ArrowArray { release: Some(count), private_data, ..shared };
        Self { array, releases, _owner: owner }
    }

    /// How often the plug-in released it.
    pub fn releases(&self) -> u32 {
        self.releases.load(Ordering::Acquire)
    }
}

/// # Safety
/// `array` is that of a [`Lent`] that is alive.
unsafe extern "C-unwind" fn count(array: *mut ArrowArray) {
    // SAFETY: the caller's contract.
    unsafe {
        (*(*array).private_data.cast::<AtomicU32>()).fetch_add(1, Ordering::AcqRel);
        (*array).release = None;
    }
}
