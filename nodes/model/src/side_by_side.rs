//! A forward on the CPU in parts, each of some lanes, which one thread computes alone.
//!
//! A thread with lanes of its own waits for nobody between two operations, and works on what its own cache holds. Where all threads
//! share each operation, a batch of small texts is waiting for a tenth of the time.

use std::sync::{Mutex, PoisonError};

use tch::Tensor;

use crate::cache::Active;
use crate::device::num_threads;
use crate::error::ModelError;
use crate::kernel::cached::{Lane, Place};
use crate::shim::parallel;

/// Places that a thread computes at once, about: their states fit into its cache.
const PLACES: usize = 1024;
/// With fewer than these for each thread, all of them compute everything together: each alone would read all weights, and wait for
/// memory where the weights do not fit into a cache (32 operations a byte at 64 places).
const FEW: usize = 64;

/// What `compute` makes of the lanes of `active`, a row for each wanted place in order.
pub(crate) fn side_by_side(
    active: &Active,
    compute: impl Fn(&Active) -> Result<Tensor, ModelError> + Sync,
) -> Result<Tensor, ModelError> {
    let Some(parts) = active.parts_for(num_threads()) else { return compute(active) };
    let found: Vec<_> = parts.iter().map(|_| Mutex::new(None)).collect();
    parallel(parts.len(), 1, |begin, end| {
        for number in begin..end {
            let states = tch::no_grad(|| compute(&parts[number]));
            *found[number].lock().unwrap_or_else(PoisonError::into_inner) = Some(states);
        }
    })?;
    let missing = || Err(ModelError::Torch("a part of a batch was not computed".to_owned()));
    let found = found.into_iter().map(|one| one.into_inner().unwrap_or_else(PoisonError::into_inner));
    let found: Vec<Tensor> = found.map(|one| one.unwrap_or_else(missing)).collect::<Result<_, _>>()?;
    Ok(Tensor::f_cat(&found, 0)?)
}

impl Active {
    /// The lanes for some threads, as many parts for each, none much larger than [`PLACES`] unless a lane is. `None` where they are best
    /// computed together.
    fn parts_for(&self, threads: usize) -> Option<Vec<Self>> {
        if self.lanes.len() < 2 || self.places.len() < threads * FEW {
            return None;
        }
        let each = self.places.len().div_ceil(threads * PLACES);
        self.parts(threads * each).or_else(|| if each > 1 { self.parts(threads) } else { None })
    }

    /// The lanes in `count` parts of about as many places, in order; `None` for one part, or where parts would differ much, since the
    /// largest decides.
    fn parts(&self, count: usize) -> Option<Vec<Self>> {
        if count < 2 {
            return None;
        }
        let total = self.places.len().max(1);
        let mut parts: Vec<Self> = Vec::new();
        parts.resize_with(count, || Self { rotary_length: self.rotary_length, ..Self::default() });
        for Lane { places, queries } in &self.lanes {
            // That of its middle.
            let number = ((places.start + places.end) * count / (2 * total)).min(count - 1);
            let part = &mut parts[number];
            let (begin, asked) = (part.places.len(), part.wanted.len());
            part.tokens.extend_from_slice(&self.tokens[places.clone()]);
            part.places.extend_from_slice(&self.places[places.clone()]);
            let moved = |place: &i64| place + begin as i64 - places.start as i64;
            part.wanted.extend(self.wanted[queries.clone()].iter().map(moved));
            part.lanes.push(Lane { places: begin..part.places.len(), queries: asked..part.wanted.len() });
        }
        let largest = parts.iter().map(|part| part.places.len()).max().unwrap_or(0);
        (largest * count * 4 <= total * 5).then_some(parts)
    }

    /// The same with lanes numbered anew, from 0, for a cache of their own.
    pub fn numbered_anew(&self) -> Self {
        let mut places = self.places.clone();
        for (number, lane) in self.lanes.iter().enumerate() {
            places[lane.places.clone()].iter_mut().for_each(|place: &mut Place| place.lane = number);
        }
        Self { places, ..self.clone() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::arithmetic::Arithmetic;
    use crate::cache::Cache;
    use crate::host::copied;
    use crate::small;

    /// Texts of some lengths, each third place asked for.
    fn active(lengths: &[usize]) -> Active {
        let mut active = Active::default();
        for (lane, &length) in lengths.iter().enumerate() {
            let tokens = (0..length).map(|at| (at, ((at * 7 + lane) % 37) as u32));
            active.add(lane, tokens, |_| 0..length, (0..length).filter(|at| at % 3 == lane % 3));
        }
        active
    }

    #[test]
    fn parts_are_even_or_there_is_one() {
        let sizes = |lengths: &[usize], count| {
            let lanes = |part: &Active| part.lanes.iter().map(|lane| lane.places.len()).collect();
            Some(active(lengths).parts(count)?.iter().map(lanes).collect::<Vec<Vec<_>>>())
        };
        assert_eq!(sizes(&[9, 9, 9, 9], 2), Some(vec![vec![9, 9], vec![9, 9]]));
        assert_eq!(sizes(&[20, 9, 11], 2), Some(vec![vec![20], vec![9, 11]]));
        for (lengths, count) in [(&[9, 9, 9][..], 2), (&[9], 2), (&[9, 9], 4), (&[9, 9], 1)] {
            assert_eq!(sizes(lengths, count), None, "{lengths:?}");
        }
        let count = |length, count, threads| active(&vec![length; count]).parts_for(threads).map(|parts| parts.len());
        let (few, many) = (count(100, 16, 2), count(100, 32, 2));
        assert_eq!([few, many, count(100, 32, 1)], [Some(2), Some(4), Some(4)]);
        assert_eq!([count(100, 3, 2), count(10, 6, 2), count(10, 1, 1)], [None; 3]);
    }

    const GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":32,"n_layer":3,"n_head":2,
        "n_positions":64,"initializer_range":0.3}"#;
    const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":3,"num_attention_heads":6,"num_key_value_heads":2,"head_dim":10,
        "max_position_embeddings":64,"initializer_range":0.3,"tie_word_embeddings":true}"#;

    /// Computes the same with one thread and with two, which must make two parts of `active`.
    fn compare(what: &str, active: &[Active], states: impl Fn() -> Vec<f32>) {
        let states = |threads| {
            crate::set_num_threads(threads);
            assert!(active.iter().all(|active| active.parts_for(threads).is_some() == (threads > 1)));
            states()
        };
        let (together, apart) = (states(1), states(2));
        crate::set_num_threads(1);
        assert_eq!(together.len(), apart.len());
        for (number, (a, b)) in together.iter().zip(&apart).enumerate() {
            assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{what}, number {number}: {a} and {b}");
        }
    }

    fn model_of(json: &str, kernels: bool) -> crate::Model {
        let mut model = small::model(json);
        model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
        model
    }

    /// In the order in which they were asked for, whoever computed them.
    #[test]
    fn texts_side_by_side_have_the_states_of_texts_together() {
        for (json, kernels) in [(GPT2, true), (LLAMA, true), (LLAMA, false)] {
            let (model, active) = (model_of(json, kernels), active(&[20, 31, 25, 28, 30]));
            compare(json, std::slice::from_ref(&active), || {
                let states =
                    copied(&tch::no_grad(|| model.decoder.whole(&active, 31, model.arithmetic)).unwrap()).unwrap();
                assert_eq!(states.len(), active.wanted.len() * model.config().hidden_size);
                states
            });
        }
    }

    /// Over a cache, whose lanes they do not have in its order: the second forward reads what the first one kept.
    #[test]
    fn lanes_side_by_side_have_the_states_of_lanes_together() {
        for json in [GPT2, LLAMA] {
            let model = model_of(json, true);
            let step = |places: std::ops::Range<usize>| {
                let mut active = Active::default();
                for lane in [3, 1, 7, 0, 5, 2, 8, 6] {
                    let tokens = places.clone().map(|at| (at, ((at * 7 + lane) % 37) as u32));
                    active.add(lane, tokens, |_| 0..places.end, places.clone().filter(|at| at % 3 == lane % 3));
                }
                active
            };
            let steps = [step(0..18), step(18..40)];
            compare(json, &steps, || {
                let mut cache = Cache::new(model.config(), (9, 40), model.decoder.target(model.arithmetic)).unwrap();
                let mut states = |active| {
                    copied(&tch::no_grad(|| model.decoder.partial(active, &mut cache, model.arithmetic)).unwrap())
                };
                steps.iter().flat_map(|step| states(step).unwrap()).collect()
            });
        }
    }
}
