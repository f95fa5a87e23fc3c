//! Which of the masked positions that a forward was asked for are revealed.

use crate::decode::choose::Choice;
use crate::decode::options::{Budget, Reveals};

/// Returns the numbers of the revealed choices, in the order of the history; at least one where there is a choice. Choices go from left
/// to right. `settled` says which of them the decoder that asks for it may reveal; `steps_left` counts those of the block, this one
/// included.
pub(crate) fn revealed(choices: &[Choice], settled: &[bool], reveals: Reveals, steps_left: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    if let Reveals::Random { .. } | Reveals::FirstHitting = reveals {
        return order;
    }
    // Positions already known do not compete; equal scores go to the earlier position.
    order.sort_by(|&a, &b| choices[b].score.total_cmp(&choices[a].score).then(a.cmp(&b)));
    match reveals {
        Reveals::Random { .. } | Reveals::FirstHitting => {}
        Reveals::Confidence { budget: Budget::PerStep(places), .. } => order.truncate(places.max(1) as usize),
        Reveals::Confidence { budget: Budget::Steps(_), .. } => {
            order.truncate(order.len().div_ceil(steps_left.max(1) as usize));
        }
        Reveals::Threshold { threshold, window, .. } => {
            // The places below this number are the window.
            let window = window.unwrap_or(usize::MAX);
            let best = order.iter().copied().find(|&place| place < window);
            order.retain(|&place| choices[place].score >= threshold || Some(place) == best);
        }
        Reveals::EntropyBound { bound } => {
            // From the lowest entropy to the highest, the largest of the first k is the last of them: what counts is the sum of the others.
            let mut sum = 0.0;
            let mut others = order.iter().map(|&place| {
                sum -= choices[place].score;
                sum
            });
            let more = others.by_ref().take_while(|sum| *sum <= bound).count();
            order.truncate(more + 1);
        }
        Reveals::Stable { .. } => {
            let best = order.first().copied().filter(|_| !settled.contains(&true));
            order.retain(|&place| settled[place] || Some(place) == best);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(scores: &[f64]) -> Vec<Choice> {
        scores.iter().map(|&score| Choice { score, ..Choice::default() }).collect()
    }

    /// Entropies 0.5, 0.1, 0.2, 0.7: in order 0.1, 0.2, 0.5, 0.7, whose sums less the largest are 0, 0.1, 0.3, 0.8.
    #[test]
    fn the_entropies_of_what_is_revealed_together_stay_below_the_bound() {
        let choices = choices(&[-0.5, -0.1, -0.2, -0.7]);
        let at = |bound| revealed(&choices, &[], Reveals::EntropyBound { bound }, 1);
        assert_eq!(at(0.0), [1]);
        assert_eq!(at(0.05), [1]);
        assert_eq!(at(0.1), [1, 2]);
        assert_eq!(at(0.25), [1, 2]);
        assert_eq!(at(0.31), [1, 2, 0]);
        assert_eq!(at(0.79), [1, 2, 0]);
        assert_eq!(at(0.81), [1, 2, 0, 3]);
        assert_eq!(at(9.0), [1, 2, 0, 3]);
    }

    /// Certain positions cost nothing, however many they are; the first that is not comes with them.
    #[test]
    fn certain_positions_are_revealed_whatever_the_bound() {
        let choices = choices(&[0.0, -1.0, 0.0, -2.0]);
        assert_eq!(revealed(&choices, &[], Reveals::EntropyBound { bound: 0.0 }, 1), [0, 2, 1]);
    }

    #[test]
    fn what_has_settled_is_revealed_and_else_the_most_probable() {
        let choices = choices(&[0.3, 0.9, 0.95, 0.5]);
        let stable = Reveals::Stable { divergence: 0.01, threshold: 0.9, forwards: 2 };
        assert_eq!(revealed(&choices, &[true, true, false, false], stable, 1), [1, 0]);
        assert_eq!(revealed(&choices, &[false; 4], stable, 1), [2]);
    }
}
