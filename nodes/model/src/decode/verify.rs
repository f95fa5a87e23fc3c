//! Speculative sampling (arXiv 2211.17192): a draft from one distribution is kept or replaced so that the token has
//! exactly the other distribution.

use crate::decode::draw::{Sampling, pick};

/// A token that was drawn to be checked later, and what it was drawn from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Draft {
    pub token: u32,
    /// Ids with their probabilities, in order; what is not here has none.
    shares: Vec<(u32, f64)>,
}

/// The token of a position.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Whether it is the draft.
    pub accepted: bool,
    pub token: u32,
    /// Under the unfiltered softmax at temperature 1.
    pub probability: f32,
}

/// Numbers in [0, 1) that decide a position. A position that is drafted again has the same: of a draft that was never checked nothing
/// has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Coins {
    pub draft: f64,
    pub accept: f64,
    pub instead: f64,
}

impl Sampling {
    /// A draft from the logits q of a position.
    pub(crate) fn draft(&self, logits: &mut [f32], present: &[u32], coins: Coins, scratch: &mut Vec<f32>) -> Draft {
        let mass = self.weigh(logits, present, scratch).mass;
        let positive = (0..).zip(scratch.iter()).filter(|(_, weight)| **weight > 0.0);
        let shares: Vec<(u32, f64)> = positive.map(|(id, &weight)| (id, f64::from(weight) / mass)).collect();
        let last = shares.last().map_or(0, |(id, _)| *id);
        Draft { token: pick(shares.iter().copied(), coins.draft, last), shares }
    }

    /// The token of a position with the logits p: the draft with probability min(1, p/q), else one of the normalised (p − q)₊; one of p
    /// where there is no draft. Either way it has the distribution p.
    pub(crate) fn verify(
        &self,
        logits: &mut [f32],
        present: &[u32],
        draft: Option<&Draft>,
        coins: Coins,
        scratch: &mut Vec<f32>,
    ) -> Verdict {
        let weighed = self.weigh(logits, present, scratch);
        let share = |weight: f32| f64::from(weight) / weighed.mass;
        let verdict = |accepted, token: u32| Verdict {
            accepted,
            token,
            probability: weighed.probability(logits[token as usize]),
        };
        let Some(draft) = draft else {
            let all = (0..).zip(scratch.iter()).map(|(id, &weight)| (id, share(weight)));
            return verdict(false, pick(all, coins.instead, 0));
        };
        if coins.accept * draft.probability() < share(scratch[draft.token as usize]) {
            return verdict(true, draft.token);
        }
        let mut left: Vec<f64> = scratch.iter().map(|&weight| share(weight)).collect();
        for &(id, q) in &draft.shares {
            left[id as usize] = (left[id as usize] - q).max(0.0);
        }
        let mass: f64 = left.iter().sum();
        verdict(false, pick((0..).zip(left), coins.instead * mass, draft.token))
    }
}

impl Draft {
    /// q of the token.
    fn probability(&self) -> f64 {
        self.shares.binary_search_by_key(&self.token, |(id, _)| *id).map_or(0.0, |at| self.shares[at].1)
    }
}

#[cfg(test)]
mod tests {
    use difflow_diffusion::keyed;

    use super::*;

    /// p = (½, ¼, ¼), q = (¼, ¾, 0): kept with probability ¼ + ¼, else the first or the third token, evenly.
    #[test]
    fn a_draft_is_kept_or_replaced_as_the_two_distributions_say() {
        let (p, q) = ([2f32.ln(), 0.0, 0.0], [0.0, 3f32.ln(), f32::NEG_INFINITY]);
        let sampling = Sampling::default();
        let (mut accepted, mut tokens, mut instead) = (0.0, [0.0; 3], [0.0; 3]);
        let (count, mut rng) = (40_000, keyed::rng(1, "test", 0, 0));
        for _ in 0..count {
            let mut coin = || keyed::uniform(&mut rng);
            let coins = Coins { draft: coin(), accept: coin(), instead: coin() };
            let draft = sampling.draft(&mut q.clone(), &[], coins, &mut Vec::new());
            let verdict = sampling.verify(&mut p.clone(), &[], Some(&draft), coins, &mut Vec::new());
            let share = 1.0 / f64::from(count);
            accepted += if verdict.accepted { share } else { 0.0 };
            tokens[verdict.token as usize] += share;
            instead[verdict.token as usize] += if verdict.accepted { 0.0 } else { share };
        }
        let close = |found: &[f64], wanted: &[f64]| {
            assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 0.01), "{found:?} {wanted:?}");
        };
        close(&[accepted], &[0.5]);
        close(&tokens, &[0.5, 0.25, 0.25]);
        close(&instead, &[0.25, 0.0, 0.25]);
    }

    /// Temperature, top-k and top-p are those of the ordinary draw, on both sides.
    #[test]
    fn greedy_keeps_a_draft_that_is_the_best_and_else_takes_the_best() {
        let coins = Coins { draft: 0.999, accept: 0.999, instead: 0.999 };
        let logits = [0.0, 2.0, 1.0];
        let verdict = |token| {
            let draft = Draft { token, shares: vec![(token, 1.0)] };
            Sampling::GREEDY.verify(&mut logits.clone(), &[], Some(&draft), coins, &mut Vec::new())
        };
        assert_eq!((verdict(1).accepted, verdict(1).token), (true, 1));
        assert_eq!((verdict(2).accepted, verdict(2).token), (false, 1));
        let top2 = Sampling { top_k: Some(2), ..Sampling::default() };
        let draft = top2.draft(&mut logits.clone(), &[], coins, &mut Vec::new());
        assert_eq!(draft.shares.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(draft.token, 2);
    }
}
