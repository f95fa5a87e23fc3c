//! A forward over whole texts of which nothing is kept: on the CPU each thread computes some of them alone.
//!
//! A thread with texts of its own waits for nobody between two operations, and works on what its own cache holds. Where all threads
//! share each operation, a batch of small texts is waiting for a tenth of the time.

use std::sync::{Mutex, PoisonError};

use tch::Tensor;

use crate::arithmetic::Arithmetic;
use crate::cache::{Active, Cache};
use crate::decoder::Decoder;
use crate::device::{Device, num_threads};
use crate::error::ModelError;
use crate::kernel::cached::{Lane, Place};
use crate::shim::parallel;

impl Decoder {
    /// As [`Decoder::partial`], of texts that have all their places in `active`, `capacity` at most.
    pub fn whole(&self, active: &Active, capacity: usize, how: Arithmetic) -> Result<Tensor, ModelError> {
        let host = self.device() == Device::Cpu.torch();
        let alone = |part: &Active| {
            let mut nothing = Cache::passing(&self.config, (part.lanes.len(), capacity), self.target(how))?;
            self.partial(part, &mut nothing, how)
        };
        if !host {
            return self.whole_there(active, capacity, how);
        }
        let parts = active.parts_for(num_threads());
        if parts.len() == 1 {
            return alone(&parts[0]);
        }
        let found: Vec<_> = parts.iter().map(|_| Mutex::new(None)).collect();
        parallel(parts.len(), 1, |begin, end| {
            for number in begin..end {
                let hidden = tch::no_grad(|| alone(&parts[number]));
                *found[number].lock().unwrap_or_else(PoisonError::into_inner) = Some(hidden);
            }
        })?;
        let missing = || Err(ModelError::Torch("a part of a batch was not computed".to_owned()));
        let found = found.into_iter().map(|one| one.into_inner().unwrap_or_else(PoisonError::into_inner));
        let found: Vec<Tensor> = found.map(|one| one.unwrap_or_else(missing)).collect::<Result<_, _>>()?;
        Ok(Tensor::f_cat(&found, 0)?)
    }

    /// On a device: in a room that is kept, for the forwards that were recorded in it.
    fn whole_there(&self, active: &Active, capacity: usize, how: Arithmetic) -> Result<Tensor, ModelError> {
        let active = &active.parts(1)[0];
        let mut kept = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        // Of another arithmetic the tensors are of another kind.
        let usable = kept.take().filter(|(of, _)| *of == how);
        let (_, room) = match usable {
            Some(room) => kept.insert(room),
            None => kept.insert((how, Cache::passing(&self.config, (active.lanes.len(), capacity), self.target(how))?)),
        };
        room.grow((active.lanes.len(), capacity))?;
        self.partial(active, room, how)
    }
}

/// Places that a thread computes at once, about: their states fit into its cache.
const PLACES: usize = 1024;

impl Active {
    /// The texts for some threads, in one part or in as many for each, none much larger than [`PLACES`] unless a text is.
    fn parts_for(&self, threads: usize) -> Vec<Self> {
        let each = self.places.len().div_ceil(threads * PLACES).max(1);
        let parts = self.parts(threads * each);
        if parts.len() == 1 && each > 1 { self.parts(threads) } else { parts }
    }

    /// The texts in `count` parts of about as many places, in order, their lanes numbered anew in each; in one part where others would
    /// differ much, since the largest decides.
    pub fn parts(&self, count: usize) -> Vec<Self> {
        let (total, count) = (self.places.len().max(1), count.max(1));
        let mut parts: Vec<Self> = Vec::new();
        parts.resize_with(count, || Self { rotary_length: self.rotary_length, ..Self::default() });
        for Lane { places, queries } in &self.lanes {
            // That of its middle.
            let number = ((places.start + places.end) * count / (2 * total)).min(count - 1);
            let part = &mut parts[number];
            let (lane, begin, asked) = (part.lanes.len(), part.places.len(), part.wanted.len());
            part.tokens.extend_from_slice(&self.tokens[places.clone()]);
            part.places.extend(self.places[places.clone()].iter().map(|place| Place { lane, ..place.clone() }));
            let moved = |place: &i64| place + begin as i64 - places.start as i64;
            part.wanted.extend(self.wanted[queries.clone()].iter().map(moved));
            part.lanes.push(Lane { places: begin..part.places.len(), queries: asked..part.wanted.len() });
        }
        let largest = parts.iter().map(|part| part.places.len()).max().unwrap_or(0);
        if count > 1 && largest * count * 4 > total * 5 { self.parts(1) } else { parts }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
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
            let parts = active(lengths).parts(count);
            parts.iter().map(|part| part.lanes.iter().map(|lane| lane.places.len()).collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(sizes(&[9, 9, 9, 9], 2), [[9, 9], [9, 9]]);
        assert_eq!(sizes(&[20, 9, 11], 2), [vec![20], vec![9, 11]]);
        assert_eq!(sizes(&[9, 9, 9], 2), [[9, 9, 9]]);
        assert_eq!(sizes(&[9], 2), [[9]]);
        assert_eq!(sizes(&[9, 9], 4), [[9, 9]]);
        let count = |length, count, threads| active(&vec![length; count]).parts_for(threads).len();
        assert_eq!([count(100, 32, 2), count(100, 16, 2), count(100, 3, 2), count(100, 32, 1)], [4, 2, 1, 4]);
    }

    /// In the order in which they were asked for, whoever computed them.
    #[test]
    fn texts_side_by_side_have_the_states_of_texts_together() {
        const GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":32,"n_layer":3,"n_head":2,
            "n_positions":64,"initializer_range":0.3}"#;
        const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
            "num_hidden_layers":3,"num_attention_heads":6,"num_key_value_heads":2,"head_dim":10,
            "max_position_embeddings":64,"initializer_range":0.3,"tie_word_embeddings":true}"#;
        for (json, kernels) in [(GPT2, true), (LLAMA, true), (LLAMA, false)] {
            let mut model = small::model(json);
            model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
            let active = active(&[20, 31, 25, 28]);
            let states = |threads| {
                crate::set_num_threads(threads);
                assert_eq!(active.parts_for(threads).len(), threads);
                copied(&tch::no_grad(|| model.decoder.whole(&active, 31, model.arithmetic)).unwrap()).unwrap()
            };
            let (together, apart) = (states(1), states(2));
            assert_eq!(together.len(), active.wanted.len() * model.config().hidden_size);
            for (number, (a, b)) in together.iter().zip(&apart).enumerate() {
                assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{json}, number {number}: {a} and {b}");
            }
        }
        crate::set_num_threads(1);
    }
}
