//! Drawing one token from logits: temperature, top-k, nucleus, and a categorical draw by inverse cumulative sum.
//!
//! Sums and the uniform number are f64: fp32 draws are truncated and act as a lower temperature.

/// How a token is drawn from the model's distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f64,
    /// Keeps the smallest set of most probable tokens with at least this mass; 1 keeps all.
    pub top_p: f64,
    /// Keeps the `k` most probable tokens.
    pub top_k: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: None }
    }
}

impl Sampling {
    /// The most probable token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: None };

    /// A token from `logits` (−∞ is never drawn), given a uniform number in [0, 1). Ties go to the lower id.
    pub(crate) fn draw(&self, logits: &[f32], uniform: f64) -> u32 {
        let best = argmax(logits);
        if self.temperature <= 0.0 {
            return best as u32;
        }
        let max = logits[best];
        let scale = (1.0 / self.temperature) as f32;
        let weight = |logit: f32| ((logit - max) * scale).exp();
        if self.top_p >= 1.0 && self.top_k.is_none() {
            let total: f64 = logits.iter().map(|&l| f64::from(weight(l))).sum();
            return pick(
                logits.iter().enumerate().map(|(id, &l)| (id as u32, f64::from(weight(l)))),
                uniform * total,
                best,
            );
        }
        let weights: Vec<f32> = logits.iter().map(|&l| weight(l)).collect();
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        // Tokens below this weight cannot be in the nucleus: all of them together have less than 1 − top_p of the mass.
        let floor = ((1.0 - self.top_p).max(0.0) * total / weights.len() as f64) as f32;
        let kept = weights.iter().enumerate().filter(|(_, w)| **w > 0.0 && **w >= floor);
        let mut kept: Vec<(u32, f32)> = kept.map(|(id, &w)| (id as u32, w)).collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        kept.truncate(self.top_k.unwrap_or(usize::MAX).max(1));
        let (mut mass, mut end) = (0.0, 0);
        while end < kept.len() && (end == 0 || mass < self.top_p * total) {
            mass += f64::from(kept[end].1);
            end += 1;
        }
        pick(kept[..end].iter().map(|&(id, w)| (id, f64::from(w))), uniform * mass, best)
    }
}

/// The first entry whose cumulative weight exceeds `at`; the last positive one when rounding leaves none.
fn pick(weights: impl Iterator<Item = (u32, f64)>, at: f64, fallback: usize) -> u32 {
    let (mut sum, mut last) = (0.0, fallback as u32);
    for (id, weight) in weights.filter(|(_, w)| *w > 0.0) {
        sum += weight;
        last = id;
        if sum > at {
            break;
        }
    }
    last
}

/// Index of the largest logit, the lowest one among equals.
pub(crate) fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use difflow_diffusion::keyed;

    use super::*;

    fn frequencies(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut rng = keyed::rng(1, "test", 0, 0);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampling.draw(logits, keyed::uniform(&mut rng)) as usize] += 1.0 / 20_000.0;
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
}
