//! Drawing tokens on the device: [`Sampling::choose`] by torch's operations on many rows at once. The arithmetic is the same, with
//! exponentials in fp32 and sums in f64, so the same uniform numbers draw the same tokens, but for the last bits of an exponential.

use tch::{Kind, Tensor};

use crate::decode::choose::{Ask, Choice};
use crate::decode::draw::Sampling;
use crate::decode::options::Score;
use crate::error::ModelError;
use crate::later::{Later, upload};

impl Sampling {
    /// A choice for each row of logits `[n, V]` (fp32; −∞ is never drawn), without the distributions: those are the host's to keep.
    pub(crate) fn choose_there(&self, logits: &Tensor, asks: &[Ask], score: Score) -> Result<Vec<Choice>, ModelError> {
        let device = logits.device();
        let logits = self.penalised(logits, asks)?;
        let (rows, vocabulary) = logits.size2()?;
        let ids = Tensor::f_arange(vocabulary, (Kind::Int64, device))?;
        let largest = logits.f_amax([1], true)?;
        let best = first(&logits.f_eq_tensor(&largest)?, &ids)?;
        let below = logits.f_sub(&largest)?;
        let weights = below.f_exp()?;
        let total = weights.f_sum_dim_intlist([1].as_slice(), true, Kind::Double)?;
        let shares = |weights: &Tensor| Ok::<_, ModelError>(weights.f_to_kind(Kind::Double)?.f_div(&total)?);
        let token = if self.temperature == 0.0 {
            best.shallow_clone()
        } else {
            let uniforms: Vec<f64> = asks.iter().map(|ask| ask.uniform).collect();
            let uniforms = upload(&uniforms, device)?.f_unsqueeze(1)?;
            let weights = match self.temperature {
                1.0 => weights.shallow_clone(),
                temperature => below.f_mul_scalar(f64::from((1.0 / temperature) as f32))?.f_exp()?,
            };
            self.drawn(&weights, &uniforms)?
        };
        let probability = shares(&below.f_gather(1, &token, false)?.f_exp()?)?;
        let sureness = match score {
            Score::Probability => probability.shallow_clone(),
            Score::Margin => {
                let others = weights.f_scatter_value(1, &best, 0.0)?.f_amax([1], true)?;
                shares(&weights.f_gather(1, &best, false)?)?.f_sub(&shares(&others)?)?
            }
            Score::Entropy => {
                let p = shares(&weights)?;
                p.f_xlogy(&p)?.f_sum_dim_intlist([1].as_slice(), true, Kind::Double)?
            }
        };
        let found = Tensor::f_cat(&[token.f_to_kind(Kind::Double)?, probability, sureness], 1)?;
        let found = Later::start(&found)?.read()?;
        debug_assert_eq!(found.len() as i64, 3 * rows);
        let choice = |row: &[f64]| Choice {
            token: row[0] as u32,
            probability: row[1] as f32,
            score: row[2],
            distribution: Vec::new(),
            moved: 0.0,
        };
        Ok(found.chunks(3).map(choice).collect())
    }

    /// The logits with those of tokens lowered that are there already.
    fn penalised(&self, logits: &Tensor, asks: &[Ask]) -> Result<Tensor, ModelError> {
        let places = asks
            .iter()
            .enumerate()
            .flat_map(|(row, ask)| ask.present.iter().map(move |&id| (row as i64, i64::from(id))));
        let (rows, ids): (Vec<i64>, Vec<i64>) = places.unzip();
        if self.repetition_penalty == 1.0 || rows.is_empty() {
            return Ok(logits.shallow_clone());
        }
        let at = [Some(upload(&rows, logits.device())?), Some(upload(&ids, logits.device())?)];
        let found = logits.f_index(&at)?;
        let lower = found.f_mul_scalar(self.repetition_penalty)?;
        let higher = found.f_div_scalar(self.repetition_penalty)?;
        Ok(logits.f_index_put(&at, &higher.f_where_self(&found.f_gt(0.0)?, &lower)?, false)?)
    }

    /// A token for each row by its weights `[n, V]` and a uniform number `[n, 1]`, as the host draws: `[n, 1]`.
    fn drawn(&self, weights: &Tensor, uniforms: &Tensor) -> Result<Tensor, ModelError> {
        if self.top_p >= 1.0 && self.top_k.is_none() {
            let sums = weights.f_cumsum(1, Kind::Double)?;
            return picked(weights, &sums, &sums.f_narrow(1, -1, 1)?.f_mul(uniforms)?);
        }
        // The heaviest first, of equals the one with the smaller id.
        let (sorted, ids) = weights.f_sort_stable(true, 1, true)?;
        let sums = sorted.f_cumsum(1, Kind::Double)?;
        let before = sums.f_sub(&sorted.f_to_kind(Kind::Double)?)?;
        let enough = sums.f_narrow(1, -1, 1)?.f_mul_scalar(self.top_p)?;
        let kept = before.f_lt_tensor(&enough)?;
        let _ = kept.f_narrow(1, 0, 1)?.f_fill_(1)?;
        if let Some(k) = self.top_k.filter(|&k| (k as i64) < weights.size()[1]) {
            let _ = kept.f_narrow(1, k as i64, weights.size()[1] - k as i64)?.f_fill_(0)?;
        }
        let sorted = sorted.f_mul(&kept.f_to_kind(Kind::Float)?)?;
        let sums = sorted.f_cumsum(1, Kind::Double)?;
        let rank = picked(&sorted, &sums, &sums.f_narrow(1, -1, 1)?.f_mul(uniforms)?)?;
        Ok(ids.f_gather(1, &rank, false)?)
    }
}

/// The first place of each row whose cumulative weight exceeds `at`; the last positive one when rounding leaves none.
fn picked(weights: &Tensor, sums: &Tensor, at: &Tensor) -> Result<Tensor, ModelError> {
    let place = sums.f_le_tensor(at)?.f_sum_dim_intlist([1].as_slice(), true, Kind::Int64)?;
    let ids = Tensor::f_arange(weights.size()[1], (Kind::Int64, weights.device()))?;
    let last = ids.f_mul(&weights.f_gt(0.0)?.f_to_kind(Kind::Int64)?)?.f_amax([1], true)?;
    Ok(place.f_minimum(&last)?)
}

/// The first place of each row that is true, `[n, 1]`.
fn first(places: &Tensor, ids: &Tensor) -> Result<Tensor, ModelError> {
    let none = ids.size()[0] - 1;
    let at = ids.f_expand_as(places)?.f_masked_fill(&places.f_logical_not()?, none)?;
    Ok(at.f_amin([1], true)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_diffusion::keyed;
    use rand::Rng;

    use super::*;

    /// Rows of random logits, some −∞, some equal.
    fn logits(rows: usize, vocabulary: usize) -> Vec<f32> {
        let mut rng = keyed::rng(3, "logits", 0, 0);
        let mut logit = || match rng.next_u32() % 7 {
            0 => f32::NEG_INFINITY,
            1 => 2.5,
            _ => (keyed::uniform(&mut rng) * 12.0 - 6.0) as f32,
        };
        (0..rows * vocabulary).map(|_| logit()).collect()
    }

    /// Every way to draw, every score: the token, its probability and its score are the host's.
    #[test]
    fn tokens_are_those_that_the_host_draws() {
        let (rows, vocabulary) = (400, 97);
        let values = logits(rows, vocabulary);
        let mut rng = keyed::rng(4, "uniforms", 0, 0);
        let present: Vec<u32> = (0..vocabulary as u32).step_by(3).collect();
        let ask = |row| Ask { row, unguided: row, uniform: keyed::uniform(&mut rng), present: &present, before: None };
        let asks: Vec<Ask> = (0..rows).map(ask).collect();
        let tensor = Tensor::from_slice(&values).view((rows as i64, vocabulary as i64));
        let plain = Sampling::default();
        let mut differ = 0;
        for sampling in [
            plain,
            Sampling::GREEDY,
            Sampling { temperature: 0.3, ..plain },
            Sampling { top_p: 0.8, ..plain },
            Sampling { top_p: 1e-6, ..plain },
            Sampling { top_k: Some(5), temperature: 2.0, ..plain },
            Sampling { top_k: Some(500), top_p: 0.95, ..plain },
            Sampling { repetition_penalty: 1.7, temperature: 0.7, top_p: 0.9, top_k: Some(20) },
        ] {
            for score in [Score::Probability, Score::Margin, Score::Entropy] {
                let found = sampling.choose_there(&tensor, &asks, score).unwrap();
                for (row, found) in found.iter().enumerate() {
                    let mut logits = values[row * vocabulary..(row + 1) * vocabulary].to_vec();
                    let wanted = sampling.choose(&mut logits, &asks[row], score, &mut Vec::new());
                    differ += usize::from(found.token != wanted.token);
                    if found.token == wanted.token {
                        let gap = (found.score - wanted.score).abs();
                        assert!((found.probability - wanted.probability).abs() < 1e-6, "{found:?} {wanted:?}");
                        assert!(gap < 1e-6 * wanted.score.abs().max(1.0), "{score:?}: {found:?} {wanted:?}");
                    }
                }
            }
        }
        // A uniform number between the two sums, which differ in their last bits.
        assert!(differ <= 2, "{differ} of {} tokens differ", rows * 24);
    }

    /// As the host's: the first of the most probable ones, and never a token without weight.
    #[test]
    fn the_edges_of_a_draw_are_the_hosts() {
        let row = [f32::NEG_INFINITY, 1.0, 1.0, f32::NEG_INFINITY];
        let tensor = Tensor::from_slice(&row).view((1, 4));
        for (sampling, uniform, wanted) in [
            (Sampling::GREEDY, 0.5, 1),
            (Sampling::default(), 0.0, 1),
            (Sampling::default(), 0.5, 2),
            (Sampling::default(), 1.0 - f64::EPSILON / 2.0, 2),
            (Sampling { top_p: 0.5, ..Sampling::default() }, 0.999, 1),
        ] {
            let ask = Ask { row: 0, unguided: 0, uniform, present: &[], before: None };
            let found = sampling.choose_there(&tensor, &[ask], Score::Probability).unwrap();
            assert_eq!((found[0].token, found[0].probability), (wanted, 0.5), "{sampling:?}, {uniform}");
        }
    }
}
