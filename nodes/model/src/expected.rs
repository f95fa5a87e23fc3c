//! What a model that reads from left to right expects at each position of a text.

use crate::cache::Active;
use crate::error::ModelError;
use crate::kernel::choice::{exponentials, top};
use crate::model::Model;

/// A token as the model expected it from those before it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expected {
    /// ln p of the token that stands there.
    pub log_probability: f64,
    /// The most probable tokens with their ln p, the most probable first; of equals the one with the smaller id.
    pub best: Vec<(u32, f64)>,
}

impl Model {
    /// What is expected at the positions of each text, from its second on, with the `best` most probable tokens; under causal attention,
    /// all texts in one forward. They add up to the loss of the model. Errors if a text does not fit the model.
    pub fn expected(&self, texts: &[Vec<u32>], best: usize) -> Result<Vec<Vec<Expected>>, ModelError> {
        texts.iter().try_for_each(|text| self.check_prompt(text, 0))?;
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        if longest < 2 {
            return Ok(vec![Vec::new(); texts.len()]);
        }
        let groups = self.rotary_groups(texts.iter().map(|text| text.len().saturating_sub(1)));
        if groups.len() > 1 {
            let mut found = vec![Vec::new(); texts.len()];
            for (_, places) in groups {
                let own: Vec<Vec<u32>> = places.iter().map(|&place| texts[place].clone()).collect();
                for (place, expected) in places.into_iter().zip(self.expected(&own, best)?) {
                    found[place] = expected;
                }
            }
            return Ok(found);
        }
        let rotary_length = groups.first().and_then(|(length, _)| *length);
        let (mut active, mut targets) = (Active { rotary_length, ..Active::default() }, Vec::<u32>::new());
        for (lane, text) in texts.iter().enumerate() {
            let read = text.len() - 1;
            active.add(lane, text[..read].iter().copied().enumerate(), |at| 0..at + 1, 0..read);
            targets.extend_from_slice(&text[1..]);
        }
        let (mut found, losses) = tch::no_grad(|| {
            let hidden = self.decoder.whole(&active, longest, self.arithmetic)?;
            let found = self.over_rows(&hidden, targets.len(), |scratch, at, logits| {
                scratch.resize(logits.len(), 0.0);
                let largest = top(logits);
                let total = f64::from(exponentials(logits, largest, 1.0, scratch)).ln();
                let log = |logit: f32| f64::from(logit) - f64::from(largest) - total;
                let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
                let mut ids: Vec<usize> = (0..logits.len()).collect();
                if best < ids.len() {
                    ids.select_nth_unstable_by(best, order);
                    ids.truncate(best);
                }
                ids.sort_unstable_by(order);
                let best = ids.into_iter().map(|id| (id as u32, log(logits[id]))).collect();
                Expected { log_probability: log(logits[targets[at] as usize]), best }
            })?;
            let losses = self.cross_entropies(&hidden, targets.iter().map(|&id| i64::from(id)).collect())?;
            Ok::<_, ModelError>((found, losses))
        })?;
        // The loss of a model counts its mask token among the tokens that may come; what is drawn never is one.
        for (one, loss) in found.iter_mut().zip(losses) {
            let mask = -f64::from(loss) - one.log_probability;
            if mask.is_finite() {
                one.log_probability += mask;
                one.best.iter_mut().for_each(|(_, log)| *log += mask);
            } else {
                one.log_probability = -f64::from(loss);
            }
        }
        let mut found = found.into_iter();
        Ok(texts.iter().map(|text| found.by_ref().take(text.len() - 1).collect()).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::MicroBatch;
    use crate::small::{self, LLAMA};

    /// A longer text beside it, and a text of one token, change nothing.
    #[test]
    fn the_log_probabilities_of_a_text_add_up_to_its_loss() {
        let model = small::model(LLAMA);
        let text = |key: u32, length: u32| -> Vec<u32> { (0..length).map(|i| (i * 7 + key * 5) % 37).collect() };
        let texts = [text(1, 9), text(2, 1), text(3, 20)];
        let found = model.expected(&texts, 3).unwrap();
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [8, 0, 19]);
        for (text, found) in texts.iter().zip(&found) {
            let whole = model.ar_sums(&MicroBatch::padded(std::slice::from_ref(text))).unwrap().unweighted;
            let sum: f64 = found.iter().map(|one| one.log_probability).sum();
            assert!((sum + whole).abs() < 1e-4, "{sum} {whole}");
            for one in found {
                assert!(one.best.len() == 3 && one.best.is_sorted_by(|a, b| a.1 >= b.1), "{one:?}");
                assert!(one.best.iter().all(|(_, log)| *log <= 0.0) && one.log_probability <= one.best[0].1);
            }
        }
        assert!(model.expected(&[vec![1, 99]], 1).is_err() && model.expected(&[vec![]], 1).is_err());
    }
}
