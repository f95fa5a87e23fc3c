//! Drawing one token from logits: temperature, top-k, top-p (nucleus), and a categorical draw by inverse cumulative
//! sum.
//!
//! Exponentials are fp32; the cumulative sums of a draw and the uniform number are f64, because fp32 uniform numbers
//! are truncated and act like a lower temperature.

use std::collections::BinaryHeap;

use crate::decode::calm::moved;
use crate::decode::choose::{Ask, Choice};
use crate::decode::options::Score;
use crate::error::ModelError;
use crate::kernel::choice::{exponentials, top};

/// How a token is drawn from the model's distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f64,
    /// Keeps the smallest set of most probable tokens with at least this mass; 1 keeps all.
    pub top_p: f64,
    /// Keeps the `k` most probable tokens.
    pub top_k: Option<usize>,
    /// Positive logits of tokens that the text already has are divided by this, negative ones multiplied (arXiv 1909.05858);
    /// 1 changes nothing.
    pub repetition_penalty: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: None, repetition_penalty: 1.0 }
    }
}

impl Sampling {
    /// The most probable token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: None, repetition_penalty: 1.0 };

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let input = |what, found: f64, wanted| Err(ModelError::input(what, found, wanted));
        match self {
            Self { temperature, .. } if !(0.0..f64::INFINITY).contains(temperature) => {
                input("temperature", *temperature, "a number from 0 on")
            }
            Self { top_p, .. } if !(*top_p > 0.0 && *top_p <= 1.0) => {
                input("top-p", *top_p, "more than 0 and at most 1")
            }
            Self { top_k: Some(0), .. } => input("top-k", 0.0, "at least 1"),
            Self { repetition_penalty, .. } if !(*repetition_penalty > 0.0 && repetition_penalty.is_finite()) => {
                input("repetition penalty", *repetition_penalty, "a number above 0; 1 for none")
            }
            _ => Ok(()),
        }
    }

    /// The choice for one row of logits (−∞ is never drawn). `scratch` is room for as many numbers.
    pub(crate) fn choose(&self, logits: &mut [f32], ask: &Ask, score: Score, scratch: &mut Vec<f32>) -> Choice {
        self.penalise(logits, ask.present);
        scratch.resize(logits.len(), 0.0);
        let largest = top(logits);
        let best = logits.iter().position(|&logit| logit == largest).unwrap_or(0);
        let total = f64::from(exponentials(logits, largest, 1.0, scratch));
        let share = |weight: f32| f64::from(weight) / total;
        let sureness = match score {
            Score::Probability => None,
            Score::Margin => {
                let second = top(&scratch[..best]).max(top(&scratch[best + 1..])).max(0.0);
                Some(share(scratch[best]) - share(second))
            }
            Score::Entropy => {
                let terms = scratch.iter().map(|&w| share(w)).filter(|p| *p > 0.0);
                Some(terms.map(|p| p * p.ln()).sum())
            }
        };
        let distribution: Vec<f32> = match ask.before {
            Some(_) => scratch.iter().map(|&weight| share(weight) as f32).collect(),
            None => Vec::new(),
        };
        let moved = ask.before.map_or(0.0, |before| moved(&distribution, before));
        let token = if self.temperature == 0.0 {
            best as u32
        } else {
            let mut total = total;
            if self.temperature != 1.0 {
                total = f64::from(exponentials(logits, largest, (1.0 / self.temperature) as f32, scratch));
            }
            self.draw(scratch, total, ask.uniform, best as u32)
        };
        let probability = share((logits[token as usize] - largest).exp());
        let score = sureness.unwrap_or(probability);
        Choice { token, probability: probability as f32, score, distribution, moved }
    }

    /// Lowers the logits of tokens that are there already.
    fn penalise(&self, logits: &mut [f32], present: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let penalty = self.repetition_penalty as f32;
        for &token in present {
            let logit = &mut logits[token as usize];
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }

    /// A token by its weight, given the sum of all weights and a uniform number in [0, 1).
    fn draw(&self, weights: &[f32], total: f64, uniform: f64, best: u32) -> u32 {
        if self.top_p >= 1.0 && self.top_k.is_none() {
            let all = weights.iter().enumerate().map(|(id, &w)| (id as u32, f64::from(w)));
            return pick(all, uniform * total, best);
        }
        let (kept, mass) = self.kept(weights, total);
        pick(kept.iter().map(|&(id, w)| (id, f64::from(w))), uniform * mass, best)
    }

    /// The tokens that top-k and top-p leave, the heaviest first, of several alike the first, and the sum of their weights.
    fn kept(&self, weights: &[f32], total: f64) -> (Vec<(u32, f32)>, f64) {
        let (most, enough) = (self.top_k.unwrap_or(usize::MAX), self.top_p * total);
        let heaviest = top(weights);
        if f64::from(heaviest) >= enough || most == 1 {
            let id = weights.iter().position(|&weight| weight == heaviest).unwrap_or(0);
            return (vec![(id as u32, heaviest)], f64::from(heaviest));
        }
        // Tokens below this weight cannot be in the nucleus: all of them together have less than 1 − top_p of the mass.
        let floor = ((1.0 - self.top_p).max(0.0) * total / weights.len() as f64) as f32;
        let some = weights.iter().enumerate().filter(|(_, w)| **w > 0.0 && **w >= floor);
        // Bits of positive numbers are in the order of the numbers. Few are asked for, so they are not sorted.
        let key = |(id, weight): (usize, &f32)| u64::from(weight.to_bits()) << 32 | u64::from(!(id as u32));
        let mut left: BinaryHeap<u64> = some.map(key).collect::<Vec<_>>().into();
        let (mut kept, mut mass) = (Vec::new(), 0.0);
        while kept.len() < most && (kept.is_empty() || mass < enough) {
            let Some(key) = left.pop() else { break };
            let weight = f32::from_bits((key >> 32) as u32);
            mass += f64::from(weight);
            kept.push((!(key as u32), weight));
        }
        (kept, mass)
    }

    /// Turns logits into what a token is drawn from, as weights in `scratch`, with their sum; the distribution is that of
    /// [`Sampling::choose`].
    pub(crate) fn weigh(&self, logits: &mut [f32], present: &[u32], scratch: &mut Vec<f32>) -> Weighed {
        self.penalise(logits, present);
        scratch.resize(logits.len(), 0.0);
        let largest = top(logits);
        let unfiltered = f64::from(exponentials(logits, largest, 1.0, scratch));
        let mut mass = unfiltered;
        if self.temperature == 0.0 {
            let best = logits.iter().position(|&logit| logit == largest).unwrap_or(0);
            scratch.fill(0.0);
            (scratch[best], mass) = (1.0, 1.0);
        } else {
            if self.temperature != 1.0 {
                mass = f64::from(exponentials(logits, largest, (1.0 / self.temperature) as f32, scratch));
            }
            if self.top_p < 1.0 || self.top_k.is_some() {
                let (kept, left) = self.kept(scratch, mass);
                scratch.fill(0.0);
                kept.into_iter().for_each(|(id, weight)| scratch[id as usize] = weight);
                mass = left;
            }
        }
        Weighed { mass, largest, unfiltered }
    }
}

/// Sums that go with the weights of [`Sampling::weigh`].
pub(crate) struct Weighed {
    /// Of the weights.
    pub mass: f64,
    largest: f32,
    unfiltered: f64,
}

impl Weighed {
    /// Probability of a token under the unfiltered softmax at temperature 1, by its logit.
    pub fn probability(&self, logit: f32) -> f32 {
        (f64::from((logit - self.largest).exp()) / self.unfiltered) as f32
    }
}

/// The first entry whose cumulative weight exceeds `at`; the last positive one when rounding leaves none.
pub(crate) fn pick(weights: impl Iterator<Item = (u32, f64)>, at: f64, fallback: u32) -> u32 {
    let (mut sum, mut last) = (0.0, fallback);
    for (id, weight) in weights.filter(|(_, w)| *w > 0.0) {
        sum += weight;
        last = id;
        if sum > at {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use difflow_diffusion::keyed;

    use super::*;

    fn frequencies(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut rng = keyed::rng(1, "test", 0, 0);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            let ask = Ask { row: 0, unguided: 0, uniform: keyed::uniform(&mut rng), present: &[], before: None };
            let choice = sampling.choose(&mut logits.to_vec(), &ask, Score::Probability, &mut Vec::new());
            counts[choice.token as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn close(found: &[f64], wanted: &[f64]) {
        assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 0.015), "{found:?} {wanted:?}");
    }

    #[test]
    fn draws_follow_the_softmax_at_any_temperature() {
        let logits = [8f32.ln(), 4f32.ln(), f32::NEG_INFINITY, 2f32.ln(), 2f32.ln()];
        close(&frequencies(Sampling::default(), &logits), &[0.5, 0.25, 0.0, 0.125, 0.125]);
        let half = Sampling { temperature: 0.5, ..Sampling::default() };
        close(&frequencies(half, &logits), &[64.0 / 88.0, 16.0 / 88.0, 0.0, 4.0 / 88.0, 4.0 / 88.0]);
        close(&frequencies(Sampling::GREEDY, &logits), &[1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn nucleus_keeps_the_smallest_set_that_reaches_top_p() {
        let logits = [2f32.ln(), 8f32.ln(), 4f32.ln(), 2f32.ln()];
        let at = |top_p| frequencies(Sampling { top_p, ..Sampling::default() }, &logits);
        close(&at(0.4), &[0.0, 1.0, 0.0, 0.0]);
        close(&at(0.6), &[0.0, 2.0 / 3.0, 1.0 / 3.0, 0.0]);
        close(&at(0.8), &[2.0 / 14.0, 8.0 / 14.0, 4.0 / 14.0, 0.0]);
        let top2 = Sampling { top_k: Some(2), ..Sampling::default() };
        close(&frequencies(top2, &logits), &[0.0, 2.0 / 3.0, 1.0 / 3.0, 0.0]);
    }

    fn choice(sampling: Sampling, logits: &[f32], score: Score, present: &[u32]) -> Choice {
        let ask = Ask { row: 0, unguided: 0, uniform: 0.0, present, before: None };
        sampling.choose(&mut logits.to_vec(), &ask, score, &mut Vec::new())
    }

    #[test]
    fn scores_are_those_of_the_softmax() {
        let logits = [8f32.ln(), 4f32.ln(), f32::NEG_INFINITY, 4f32.ln()];
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        let score = |score| choice(Sampling::GREEDY, &logits, score, &[]).score;
        close(score(Score::Probability), 0.5);
        close(score(Score::Margin), 0.25);
        close(score(Score::Entropy), 0.5 * 0.5f64.ln() + 0.5 * 0.25f64.ln());
        // The temperature decides the draw and not the score.
        let hot = Sampling { temperature: 3.0, ..Sampling::default() };
        close(choice(hot, &logits, Score::Margin, &[]).score, 0.25);
        close(f64::from(choice(hot, &logits, Score::Margin, &[]).probability), 0.5);
    }

    #[test]
    fn the_repetition_penalty_lowers_what_is_there_whatever_its_sign() {
        let penalty = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        assert_eq!(choice(penalty, &[3.0, 2.0, -1.0], Score::Probability, &[]).token, 0);
        assert_eq!(choice(penalty, &[3.0, 2.0, -1.0], Score::Probability, &[0]).token, 1);
        assert_eq!(choice(penalty, &[-1.0, -1.5, -4.0], Score::Probability, &[0]).token, 1);
        assert_eq!(choice(penalty, &[f32::NEG_INFINITY, -1.5, -4.0], Score::Probability, &[0]).token, 1);
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        let base = Sampling::default();
        for wrong in [
            Sampling { temperature: -0.1, ..base },
            Sampling { temperature: f64::NAN, ..base },
            Sampling { top_p: 0.0, ..base },
            Sampling { top_p: 1.1, ..base },
            Sampling { top_k: Some(0), ..base },
            Sampling { repetition_penalty: 0.0, ..base },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
