//! The forward process: which tokens of a sequence are masked at time t.

use crate::keyed;

/// The masked positions of one row: each maskable token independently with probability 1 − `alpha`.
///
/// `global_row` numbers the row in the whole run (batch seq × rows + row), so that the draw does not depend on how a
/// global batch is split into micro-batches. Every position takes one draw, maskable or not, for the same reason.
pub fn masked_positions(maskable: &[bool], alpha: f64, seed: u64, global_row: u64) -> Vec<bool> {
    masked_where(maskable, std::iter::repeat(alpha), seed, global_row)
}

/// As [`masked_positions`], with an alpha for each position.
pub fn masked_where(maskable: &[bool], alphas: impl IntoIterator<Item = f64>, seed: u64, global_row: u64) -> Vec<bool> {
    let mut rng = keyed::rng(seed, "mask", global_row, 0);
    maskable
        .iter()
        .zip(alphas)
        .map(|(&maskable, alpha)| {
            let draw = keyed::uniform(&mut rng);
            maskable && draw >= alpha
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_masked_share_is_one_minus_alpha() {
        let maskable = vec![true; 100_000];
        for alpha in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let masked = masked_positions(&maskable, alpha, 1, 2);
            let share = masked.iter().filter(|&&m| m).count() as f64 / maskable.len() as f64;
            assert!((share - (1.0 - alpha)).abs() < 0.006, "alpha {alpha}: {share}");
        }
    }

    /// An anchor or a pad that gets masked would train the model to predict what is never asked for.
    #[test]
    fn what_is_not_maskable_is_never_masked() {
        let maskable: Vec<bool> = (0..1000).map(|i| i % 3 == 0).collect();
        let masked = masked_positions(&maskable, 0.0, 1, 2);
        assert_eq!(masked, maskable);
    }

    #[test]
    fn a_row_keeps_its_draw_whatever_is_maskable_around_it() {
        let all = masked_positions(&[true; 64], 0.5, 9, 4);
        let mut some = [true; 64];
        some[0] = false;
        let fewer = masked_positions(&some, 0.5, 9, 4);
        assert_eq!(all[1..], fewer[1..]);
    }
}
