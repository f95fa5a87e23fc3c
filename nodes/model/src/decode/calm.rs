//! How long the distribution of a position has hardly moved from forward to forward.

use crate::decode::choose::Choice;

/// What is remembered of a position.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calm {
    before: Vec<f32>,
    forwards: u32,
}

impl Calm {
    /// The distribution of the forward before; empty where there was none.
    pub fn before(&self) -> &[f32] {
        &self.before
    }

    /// Takes the answer of a forward; returns for how many forwards in a row the distribution has moved by less than `divergence` nats.
    pub fn take(&mut self, choice: &Choice, divergence: f64) -> u32 {
        self.forwards = if choice.moved < divergence { self.forwards + 1 } else { 0 };
        self.before.clone_from(&choice.distribution);
        self.forwards
    }
}

/// KL(now ‖ before) in nats; infinite where there was nothing before, or something was impossible.
pub(crate) fn moved(now: &[f32], before: &[f32]) -> f64 {
    if before.len() != now.len() {
        return f64::INFINITY;
    }
    let terms = now.iter().zip(before).filter(|(now, _)| **now > 0.0);
    terms.map(|(&now, &before)| f64::from(now) * (f64::from(now) / f64::from(before)).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KL((½, ½) ‖ (¼, ¾)) = ½ ln 2 + ½ ln ⅔ = 0.1438.
    #[test]
    fn the_divergence_is_that_of_now_from_before() {
        assert!((moved(&[0.5, 0.5], &[0.25, 0.75]) - 0.143_841).abs() < 1e-6);
        assert!((moved(&[0.25, 0.75], &[0.5, 0.5]) - 0.130_812).abs() < 1e-6);
        assert_eq!(moved(&[0.0, 1.0], &[0.0, 1.0]), 0.0);
        assert_eq!(moved(&[0.5, 0.5], &[0.0, 1.0]), f64::INFINITY);
        assert_eq!(moved(&[0.5, 0.5], &[]), f64::INFINITY);
    }

    #[test]
    fn only_forwards_in_a_row_count() {
        let mut calm = Calm::default();
        let counts = [f64::INFINITY, 0.001, 0.009, 0.02, 0.0, 0.0099].map(|moved| {
            let choice = Choice { moved, distribution: vec![moved as f32], ..Choice::default() };
            calm.take(&choice, 0.01)
        });
        assert_eq!(counts, [0, 1, 2, 0, 1, 2]);
        assert_eq!(calm.before(), [0.0099]);
    }
}
