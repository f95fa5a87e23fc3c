//! Memory that a training step frees is kept for the next step.
//!
//! glibc gives large blocks back to the system at once, and the system fills what it hands out with zeros, a page at a time: 4 to 10 % of a step
//! of some million parameters. A process that trains wants the same blocks again in each step.

use std::sync::Once;

/// Blocks from this size on (bytes) are the system's business all the same.
const LARGE: i32 = 1 << 30;

/// From now on, this process keeps what it frees.
pub(crate) fn keep_freed_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: mallopt takes two numbers and locks what it changes.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::blank;

    /// Pages that the system handed out to this thread while a tensor of 8 MiB was made, written and freed.
    fn pages() -> i64 {
        let so_far = || {
            let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
            // SAFETY: room for what is written; zeros are a valid value.
            unsafe {
                libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
                usage.assume_init().ru_minflt
            }
        };
        let before = so_far();
        let _ = blank(&[1 << 21]).unwrap().fill_(1.0);
        so_far() - before
    }

    #[test]
    fn a_freed_block_is_taken_again() {
        crate::set_num_threads(1);
        keep_freed_memory();
        pages();
        let again: i64 = (0..4).map(|_| pages()).sum();
        assert!(again < 100, "{again} pages for four tensors of 2,048");
    }
}
