//! Which checkpoints may be removed.

use std::collections::BTreeMap;

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Keep {
    /// So many of the newest.
    pub last: usize,
    /// Every multiple of this step; 0 for none.
    pub every: u64,
    /// So many of those with the lowest score.
    pub best: usize,
}

/// Steps to remove of those that are there. The first (the model before training) always stays, and so does everything newer than
/// `published`: the last good one is never removed, even when a newer one turned out to be damaged. With `keep.best`, a
/// checkpoint that is not scored yet stays until it, or a newer one, is: the evaluator takes them in order.
pub fn removable(steps: &[u64], published: u64, keep: Keep, scores: &BTreeMap<u64, f64>) -> Vec<u64> {
    let settled: Vec<u64> = steps.iter().copied().filter(|&step| step <= published).collect();
    // Whatever the keys say, the one that was just verified stays.
    let old = settled.len().saturating_sub(keep.last.max(1));
    let mut ranked: Vec<(u64, f64)> = scores.iter().map(|(&step, &score)| (step, score)).collect();
    ranked.retain(|(step, _)| *step > 0 && settled.contains(step));
    let newest_scored = ranked.last().map_or(0, |(step, _)| *step);
    ranked.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    ranked.truncate(keep.best);
    let stays = |step: u64| {
        step == 0
            || (keep.every > 0 && step.is_multiple_of(keep.every))
            || ranked.iter().any(|(best, _)| *best == step)
            || (keep.best > 0 && step > newest_scored)
    };
    settled[..old].iter().copied().filter(|&step| !stays(step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [u64; 6] = [0, 10, 20, 30, 40, 50];

    fn removed(published: u64, every: u64, best: usize, scores: &[(u64, f64)]) -> Vec<u64> {
        removable(&STEPS, published, Keep { last: 2, every, best }, &scores.iter().copied().collect())
    }

    #[test]
    fn the_newest_the_first_and_the_multiples_stay() {
        assert_eq!(removed(50, 0, 0, &[]), [10, 20, 30]);
        assert_eq!(removed(50, 20, 0, &[]), [10, 30]);
        assert!(removable(&[0, 10], 10, Keep { last: 2, every: 0, best: 0 }, &BTreeMap::new()).is_empty());
    }

    /// Step 50 is on disk but not verified: 30 and 40 are the newest known to be good.
    #[test]
    fn an_unpublished_checkpoint_does_not_push_a_good_one_out() {
        assert_eq!(removed(40, 0, 0, &[]), [10, 20]);
    }

    #[test]
    fn the_best_stay_and_so_does_what_may_turn_out_to_be() {
        let scores = [(0, 0.1), (10, 2.0), (20, 1.0), (30, 1.5), (40, 1.2)];
        assert_eq!(removed(50, 0, 1, &scores), [10, 30]);
        assert_eq!(removed(50, 0, 2, &scores[..4]), [10]);
        assert_eq!(removed(50, 0, 1, &scores[..2]), [0; 0], "20 and 30 are not scored yet");
        assert_eq!(
            removed(50, 0, 1, &[(10, f64::NAN), (20, 1.0), (40, 3.0)]),
            [10, 30],
            "30 was left out by the evaluator"
        );
        assert_eq!(removed(50, 0, 1, &[]), [0; 0]);
    }

    /// The last good checkpoint outlives any keys.
    #[test]
    fn the_published_one_never_goes() {
        for last in 0..4 {
            for published in STEPS {
                let keep = Keep { last, every: 0, best: 0 };
                assert!(!removable(&STEPS, published, keep, &BTreeMap::new()).contains(&published));
            }
        }
    }
}
