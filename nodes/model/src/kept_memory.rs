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

    /// Bytes of memory that this process has.
    fn resident() -> i64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        1024 * line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap()
    }

    #[test]
    fn what_is_freed_stays_with_the_process() {
        crate::set_num_threads(1);
        keep_freed_memory();
        let (before, size) = (resident(), 1 << 25);
        drop(blank(&[size / 4]).unwrap().fill_(1.0));
        let kept = resident() - before;
        assert!(kept > size * 9 / 10, "{kept} of {size} bytes");
    }
}
