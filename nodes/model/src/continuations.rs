//! How probable continuations of prompts are to a model that reads from left to right. A prompt is read once, and each of its
//! continuations over the keys and values that it left.

use tch::Tensor;

use crate::cache::Active;
use crate::error::ModelError;
use crate::model::Model;

/// A prompt and what may follow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Continued {
    /// At least one token, BOS first if the model wants one.
    pub prompt: Vec<u32>,
    /// Each stands directly behind the prompt, without the others.
    pub continuations: Vec<Vec<u32>>,
}

impl Model {
    /// Returns −ln p(continuation | prompt) of each continuation of each prompt, in nats, under causal attention; all prompts share one
    /// forward (unless their rotary embeddings go by the lengths of the texts), and so do their first continuations, their second ones, and
    /// so on. Errors if one does not fit the model.
    pub fn continuation_nats(&self, texts: &[Continued]) -> Result<Vec<Vec<f64>>, ModelError> {
        for text in texts {
            self.check_prompt(&text.prompt, 0)?;
            for continuation in &text.continuations {
                self.check_prompt(&[&text.prompt[..], continuation].concat(), 0)?;
            }
        }
        let rounds = texts.iter().map(|text| text.continuations.len()).max().unwrap_or(0);
        let mut nats: Vec<Vec<f64>> = texts.iter().map(|text| vec![0.0; text.continuations.len()]).collect();
        if rounds == 0 {
            return Ok(nats);
        }
        let room = |text: &Continued| {
            let longest = text.continuations.iter().map(Vec::len).max().unwrap_or(0);
            text.prompt.len() + longest.saturating_sub(1)
        };
        let groups = self.rotary_groups(texts.iter().map(room));
        if groups.len() > 1 {
            for (_, places) in groups {
                let own: Vec<Continued> = places.iter().map(|&place| texts[place].clone()).collect();
                for (place, found) in places.into_iter().zip(self.continuation_nats(&own)?) {
                    nats[place] = found;
                }
            }
            return Ok(nats);
        }
        let rotary_length = groups.first().and_then(|(length, _)| *length);
        let size = (texts.len(), texts.iter().map(room).max().unwrap_or(0));
        tch::no_grad(|| {
            let mut cache = self.decoder.cache(&self.config, size, self.arithmetic)?;
            let seen = |at: usize| 0..at + 1;
            let mut active = Active { rotary_length, ..Active::default() };
            for (lane, text) in texts.iter().enumerate() {
                let last = text.prompt.len() - 1;
                active.add(lane, text.prompt.iter().copied().enumerate(), seen, std::iter::once(last));
            }
            let ends = self.decoder.partial(&active, &mut cache, self.arithmetic)?;
            for round in 0..rounds {
                // The first token is predicted by the prompt's last position, each other one by the token before it. What an earlier
                // continuation left in the cache is written over before it is seen.
                let mut active = Active { rotary_length, ..Active::default() };
                let (mut first, mut places, mut targets) = (vec![], vec![], vec![]);
                let (mut later_places, mut later) = (Vec::new(), Vec::new());
                for (lane, text) in texts.iter().enumerate() {
                    let Some(continuation) = text.continuations.get(round) else { continue };
                    let Some((start, rest)) = continuation.split_first() else { continue };
                    first.push(lane as i64);
                    places.push(lane);
                    targets.push(i64::from(*start));
                    let from = text.prompt.len();
                    let read = continuation[..rest.len()].iter().copied().enumerate();
                    if !rest.is_empty() {
                        active.add(lane, read.map(|(at, token)| (from + at, token)), seen, from..from + rest.len());
                        later_places.extend(rest.iter().map(|_| lane));
                        later.extend(rest.iter().map(|&token| i64::from(token)));
                    }
                }
                if targets.is_empty() {
                    continue;
                }
                let first = Tensor::f_from_slice(&first)?.f_to_device(ends.device())?;
                let mut rows = ends.f_index_select(0, &first)?;
                if !later.is_empty() {
                    rows = Tensor::f_cat(&[rows, self.decoder.partial(&active, &mut cache, self.arithmetic)?], 0)?;
                }
                places.append(&mut later_places);
                targets.append(&mut later);
                for (lane, loss) in places.into_iter().zip(self.cross_entropies(&rows, targets)?) {
                    if let Some(nats) = nats[lane].get_mut(round) {
                        *nats += f64::from(loss);
                    }
                }
            }
            Ok(nats)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::small::{self, LLAMA};
    use crate::{Arithmetic, MicroBatch};

    const GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":32,"n_layer":3,"n_head":2,
        "n_positions":64,"initializer_range":0.3}"#;

    fn tokens(key: u32, length: usize) -> Vec<u32> {
        (0..length as u32).map(|i| (i + key).wrapping_mul(2_654_435_761) % 37).collect()
    }

    /// Longer continuations before shorter ones: what they left in the cache must not be seen. Different numbers of them; one of one token.
    #[test]
    fn a_continuation_over_the_cache_costs_what_it_costs_in_the_whole_text() {
        crate::set_num_threads(1);
        let lengths = [(5, vec![9, 2, 1, 6]), (11, vec![3]), (1, vec![1, 8])];
        let texts: Vec<Continued> = (0..)
            .zip(&lengths)
            .map(|(key, (prompt, continuations))| Continued {
                prompt: tokens(key, *prompt),
                continuations: (100..).zip(continuations).map(|(i, &n)| tokens(key * 7 + i, n)).collect(),
            })
            .collect();
        for json in [LLAMA, GPT2] {
            for kernels in [true, false] {
                let mut model = small::model(json);
                model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
                let whole = |tokens: Vec<u32>| model.ar_sums(&MicroBatch::padded(&[tokens])).unwrap().unweighted;
                let found = model.continuation_nats(&texts).unwrap();
                for (text, found) in texts.iter().zip(&found) {
                    let prompt = whole(text.prompt.clone());
                    for (continuation, found) in text.continuations.iter().zip(found) {
                        let wanted = whole([&text.prompt[..], continuation].concat()) - prompt;
                        assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let model = small::model(GPT2);
        let refused = |prompt: Vec<u32>, continuation: Vec<u32>| {
            model.continuation_nats(&[Continued { prompt, continuations: vec![continuation] }]).is_err()
        };
        assert!(refused(vec![], vec![1]) && refused(vec![1], vec![37]) && refused(vec![1; 60], vec![1; 6]));
        assert!(!refused(vec![1; 60], vec![1; 4]) && model.continuation_nats(&[]).unwrap().is_empty());
    }
}
