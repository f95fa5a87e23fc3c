//! Which checkpoints may go.

/// Steps to remove of those that are there. The first (the model before training) and the newest `keep_last` always stay, so
/// does every multiple of `keep_every` when that is not 0, and everything newer than `published`: the last good one is
/// never removed, even when a newer one turned out to be damaged.
pub fn removable(steps: &[u64], published: u64, keep_last: usize, keep_every: u64) -> Vec<u64> {
    let settled: Vec<u64> = steps.iter().copied().filter(|&step| step <= published).collect();
    let old = settled.len().saturating_sub(keep_last);
    settled[..old].iter().copied().filter(|&step| step > 0 && (keep_every == 0 || step % keep_every != 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_the_first_and_the_multiples_stay() {
        assert_eq!(removable(&[0, 10, 20, 30, 40, 50], 50, 2, 0), [10, 20, 30]);
        assert_eq!(removable(&[0, 10, 20, 30, 40, 50], 50, 2, 20), [10, 30]);
        assert!(removable(&[0, 10], 10, 2, 0).is_empty());
    }

    /// Step 50 is on disk but not verified: 30 and 40 are the newest known to be good.
    #[test]
    fn an_unpublished_checkpoint_does_not_push_a_good_one_out() {
        assert_eq!(removable(&[0, 10, 20, 30, 40, 50], 40, 2, 0), [10, 20]);
    }
}
