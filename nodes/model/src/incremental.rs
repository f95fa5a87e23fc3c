//! A forward over some positions of some sequences, with the others taken from the cache.

use tch::{Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::cache::{Active, Cache, Storage};
use crate::config::Layer;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::host::{blank, read, write};
use crate::kernel::cached::{self, Room, Shape, Slab, Work};
use crate::padded::{Numbers, Padded, Reading};
use crate::side_by_side::side_by_side;

impl Decoder {
    /// Hidden states before the last norm, `[W, D]`, of the wanted places; keys and values of all places are written into the
    /// cache. The last block is computed for the wanted places only.
    pub fn partial(&self, active: &Active, cache: &mut Cache, how: Arithmetic) -> Result<Tensor, ModelError> {
        let Storage::Host(slabs) = &mut cache.storage else { return self.partial_alone(active, cache, how) };
        let (shape, rooms) = (cache.shape, rooms(slabs));
        // SAFETY: the slabs are this shape's, and borrowed until the end; no two parts have a lane in common.
        side_by_side(active, |part| unsafe { self.partial_here(part, shape, &rooms, how) })
    }

    /// The same, which whoever computes parts side by side has for one of them.
    pub fn partial_alone(&self, active: &Active, cache: &mut Cache, how: Arithmetic) -> Result<Tensor, ModelError> {
        let Cache { shape, storage, replays } = cache;
        match storage {
            // SAFETY: the slabs are this shape's, and borrowed until the end.
            Storage::Host(slabs) => unsafe { self.partial_here(active, *shape, &rooms(slabs), how) },
            Storage::Torch(layers) => {
                let numbers = Numbers::new(active, shape, &self.config.windows(), replays.fixed_shapes());
                // Made now if they are of another length: a forward that is recorded must not.
                self.rotaries(|layer| self.with_rotary(layer, numbers.sizes.rotary_length, |_| Ok(Some(()))))?;
                let kept = || self.tables();
                let states = replays.states(&numbers, self.device(), kept, |values| {
                    self.partial_there(
                        &Reading::new(values, &numbers.sizes, how.kind())?,
                        &numbers,
                        (*shape, layers),
                        how,
                    )
                })?;
                Ok(states.f_narrow(0, 0, active.wanted.len() as i64)?)
            }
            Storage::Texts(_) => Err(ModelError::Torch("a cache was made for a plug-in's model".to_owned())),
        }
    }

    /// By the CPU kernels.
    ///
    /// # Safety
    /// The rooms are those of slabs of this shape, which are still there, and nobody else uses the lanes of `active`.
    unsafe fn partial_here(
        &self,
        active: &Active,
        shape: Shape,
        rooms: &[Room],
        how: Arithmetic,
    ) -> Result<Tensor, ModelError> {
        let row = |values: &[i64]| Ok::<_, ModelError>(Tensor::f_from_slice(values)?.f_view((1, -1))?);
        let positions: Vec<i64> = active.places.iter().map(|place| place.position as i64).collect();
        let wanted = Tensor::f_from_slice(&active.wanted)?;
        let length = active.rotary_length.unwrap_or(shape.capacity);
        let rotaries = self.rotaries(|layer| self.with_rotary(layer, length, |rotary| Ok(rotary.host.clone())))?;
        let mut x = self.embed(&row(&active.tokens)?, Some(&row(&positions)?))?;
        let all: Vec<i64> = (0..active.places.len() as i64).collect();
        let whole = |lane: &cached::Lane| cached::Lane { queries: lane.places.clone(), ..lane.clone() };
        let (mut queries, mut lanes) = (&all, active.lanes.iter().map(whole).collect::<Vec<_>>());
        let last = self.blocks.len().saturating_sub(1);
        for (layer, block) in self.blocks.iter().enumerate() {
            let qkv = self.project(block, &x, how)?;
            if layer == last {
                x = x.f_index_select(0, &wanted)?;
                (queries, lanes) = (&active.wanted, active.lanes.clone());
            }
            let room = rooms[layer % rooms.len()];
            let rotary = &block.layer.rope.and_then(|rope| rotaries.get(rope).cloned());
            let (scores, window) = (self.scores(block.layer), block.layer.window);
            let work = Work { places: &active.places, queries, lanes: &lanes, rotary, scores, window };
            // SAFETY: the caller's.
            let attended = unsafe { host(shape, work, room, &qkv)? };
            x = self.finish(block, &x, &attended, how)?.rows;
        }
        Ok(x)
    }

    /// By torch's operations, on any device.
    fn partial_there(
        &self,
        reading: &Reading,
        numbers: &Numbers,
        (shape, layers): (Shape, &[(Tensor, Tensor)]),
        how: Arithmetic,
    ) -> Result<Tensor, ModelError> {
        let length = numbers.sizes.rotary_length;
        let rotaries = self.rotaries(|layer| self.rotary_tables(layer, length, Some(&reading.positions)))?;
        let count = reading.positions.numel() as i64;
        let mut x = self.embed(&reading.tokens, Some(&reading.positions))?;
        let last = self.blocks.len().saturating_sub(1);
        for (layer, block) in self.blocks.iter().enumerate() {
            let qkv = self.project(block, &x, how)?;
            if layer == last {
                x = x.f_index_select(0, &reading.wanted)?;
            }
            let padded = if layer == last { &reading.last } else { &reading.all };
            let rotary = block.layer.rope.and_then(|rope| rotaries.get(rope));
            let heads = self.heads(&qkv, (1, count), rotary, how)?;
            let (keys, values) = &layers[layer % layers.len()];
            let attended = self.padded(block.layer, (reading, padded), &shape, heads, (keys, values), how)?;
            x = self.finish(block, &x, &attended, how)?.rows;
        }
        Ok(x)
    }

    fn padded(
        &self,
        layer: Layer,
        (reading, padded): (&Reading, &Padded),
        shape: &Shape,
        (q, k, v): (Tensor, Tensor, Tensor),
        (keys, values): (&Tensor, &Tensor),
        how: Arithmetic,
    ) -> Result<Tensor, ModelError> {
        let flat = |x: &Tensor| Ok::<_, ModelError>(x.f_squeeze_dim(0)?.f_transpose(0, 1)?);
        let _ = keys.shallow_clone().f_index_copy_(0, &reading.slots, &flat(&k)?)?;
        let _ = values.shallow_clone().f_index_copy_(0, &reading.slots, &flat(&v)?)?;
        let (lanes, width) = padded.size;
        let (h, kv, d) = (shape.heads as i64, shape.kv_heads as i64, shape.head_dim as i64);
        let query = flat(&q)?.f_index_select(0, &padded.spread)?.f_view((lanes, width, h, d))?.f_transpose(1, 2)?;
        let cached = |x: &Tensor| -> Result<Tensor, ModelError> {
            let rows = x.f_index_select(0, &reading.rows)?;
            Ok(rows.f_view((lanes, shape.capacity as i64, kv, d))?.f_transpose(1, 2)?)
        };
        let bias = crate::attention::Kernel::Bias(padded.bias(layer.window)?);
        let attended = self.attend(layer, (&query, &cached(keys)?, &cached(values)?), &bias, how)?;
        Ok(attended.f_index_select(0, &padded.gather)?)
    }
}

fn rooms(slabs: &mut [Slab]) -> Vec<Room> {
    slabs.iter_mut().map(Slab::room).collect()
}

/// # Safety
/// As [`cached::forward`].
unsafe fn host(shape: Shape, work: Work, room: Room, qkv: &Tensor) -> Result<Tensor, ModelError> {
    let qkv = qkv.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut out = blank(&[work.queries.len() as i64, (shape.heads * shape.head_dim) as i64])?;
    // SAFETY: the output is made here, and nothing else has it; the rest is the caller's.
    unsafe { cached::forward(shape, work, room, read(&qkv)?, write(&mut out)?)? };
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::attention::Attention;
    use crate::host::copied;
    use crate::input::Layout;
    use crate::pattern::Pattern;
    use crate::replays::Replays;
    use crate::{Model, small};

    const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":3,"num_attention_heads":6,"num_key_value_heads":2,"head_dim":10,
        "max_position_embeddings":64,"initializer_range":0.3,"tie_word_embeddings":true}"#;
    const GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":32,"n_layer":3,"n_head":2,
        "n_positions":64,"initializer_range":0.3}"#;

    fn model(json: &str, fused: bool) -> Model {
        let mut model = small::model(json);
        model.set_arithmetic(Arithmetic { kernels: fused, ..model.arithmetic() });
        model
    }

    fn tokens(length: usize) -> Vec<u32> {
        (0..length as u32).map(|i| i.wrapping_mul(2_654_435_761) % 37).collect()
    }

    /// The same hidden states as the forward of training: everything at once, and in parts over the cache.
    fn compare(model: &Model, pattern: &Pattern, parts: &[std::ops::Range<usize>]) {
        let lengths = [40usize, 23, 40];
        let config = model.config();
        let seen = |length: usize| {
            let causal = *pattern == Pattern::Causal;
            move |at: usize| 0..if causal { at + 1 } else { length }
        };
        let mut cache = Cache::new(model.config(), (3, 40), model.decoder.target(model.arithmetic)).unwrap();
        for (number, part) in parts.iter().enumerate() {
            let mut active = Active::default();
            for (lane, &length) in lengths.iter().enumerate() {
                let part = part.start.min(length)..part.end.min(length);
                if !part.is_empty() {
                    let text = tokens(length);
                    let wanted = part.clone().filter(|at| at % 3 == 0);
                    active.add(lane, part.clone().map(|at| (at, text[at])), seen(length), wanted);
                }
            }
            let found = copied(&model.decoder.partial(&active, &mut cache, model.arithmetic).unwrap()).unwrap();
            let mut row = 0;
            for &length in &lengths {
                let layout = Layout::row(length);
                let attention =
                    Attention::new(pattern, layout, &model.config.windows(), model.decoder.target(model.arithmetic))
                        .unwrap();
                let ids = model.ids(&tokens(length), 1).unwrap();
                let whole = copied(&model.decoder.hidden(&ids, &attention, model.arithmetic, false).unwrap()).unwrap();
                let width = model.config().hidden_size;
                for at in (part.start.min(length)..part.end.min(length)).filter(|at| at % 3 == 0) {
                    let (a, b) = (&whole[at * width..(at + 1) * width], &found[row * width..(row + 1) * width]);
                    let gap = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    let scale = a.iter().fold(1f32, |most, a| most.max(a.abs()));
                    assert!(gap < 1e-4 * scale, "{config:?}, part {number}, position {at} of {length}: {gap}");
                    row += 1;
                }
            }
            assert_eq!(row, active.wanted.len());
        }
    }

    /// The rest of a text whose beginning another lane has, or had its own lane: the states of the whole text. Nothing is left of what was
    /// in the lane before: an infinity there would be one in all states.
    #[test]
    fn a_lane_begins_with_what_another_has_read() {
        crate::set_num_threads(1);
        for json in [LLAMA, GPT2] {
            for fused in [true, false] {
                let model = model(json, fused);
                let target = model.decoder.target(model.arithmetic);
                let texts = [0, 1].map(|other| {
                    let mut text = tokens(30);
                    text[20..].iter_mut().for_each(|token| *token = (*token + 5 * other) % 37);
                    text
                });
                let read = |cache: &mut Cache, lane: usize, text: &[u32], from: usize| {
                    let mut active = Active::default();
                    active.add(lane, (from..30).map(|at| (at, text[at])), |at| 0..at + 1, 20..30);
                    copied(&model.decoder.partial(&active, cache, model.arithmetic).unwrap()).unwrap()
                };
                tch::no_grad(|| {
                    let mut alone = Cache::new(model.config(), (1, 30), target).unwrap();
                    let whole = read(&mut alone, 0, &texts[1], 0);
                    for lane in [0, 1, 3] {
                        let mut cache = Cache::new(model.config(), (2, 30), target).unwrap();
                        let first = read(&mut cache, 0, &texts[0], 0);
                        assert!(first != whole);
                        match &mut cache.storage {
                            Storage::Host(slabs) => slabs.iter_mut().for_each(|slab| slab.spoil(&cache.shape, 0, 20)),
                            Storage::Torch(layers) => {
                                for tensor in layers.iter().flat_map(|(keys, values)| [keys, values]) {
                                    let _ = tensor.narrow(0, 20, 10).fill_(f64::INFINITY);
                                }
                            }
                            Storage::Texts(_) => {}
                        }
                        cache.begin(lane, 0, 20).unwrap();
                        let found = read(&mut cache, lane, &texts[1], 20);
                        let gap = found.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(gap < 1e-4, "{json}, fused {fused}, lane {lane}: {gap}");
                    }
                });
            }
        }
    }

    /// A wrong slot, rotation, mask, window or order of lanes changes some hidden state. After a whole forward any part may be read
    /// again: its keys and values are replaced by equal ones.
    #[test]
    fn parts_over_the_cache_equal_the_whole() {
        crate::set_num_threads(1);
        let mistral = LLAMA
            .replace("LlamaForCausalLM", "MistralForCausalLM")
            .replace("\"head_dim\"", "\"sliding_window\":5,\"head_dim\"");
        let families = small::FAMILIES.map(|(_, json)| json);
        for json in [LLAMA, GPT2, &mistral].into_iter().chain(families) {
            for fused in [true, false] {
                let model = model(json, fused);
                tch::no_grad(|| {
                    compare(&model, &Pattern::Full, &[0..40, 10..20, 17..18, 0..3, 22..40]);
                    compare(&model, &Pattern::Causal, &[0..11, 11..12, 12..36, 36..40]);
                });
            }
        }
    }

    /// A number that stayed as it was recorded, or a place that fills a shape up and is read, changes some state.
    #[test]
    fn forwards_that_are_done_again_read_their_own_numbers() {
        crate::set_num_threads(1);
        let mistral = LLAMA
            .replace("LlamaForCausalLM", "MistralForCausalLM")
            .replace("\"head_dim\"", "\"sliding_window\":5,\"head_dim\"");
        for json in [LLAMA, GPT2, &mistral] {
            let model = model(json, false);
            let target = model.decoder.target(model.arithmetic);
            let [mut plain, mut again] = [(); 2].map(|()| Cache::new(model.config(), (3, 64), target).unwrap());
            again.replays = Replays::again();
            for round in 0..4 {
                for part in [0..40, 13..22 + round % 2, 17..18] {
                    let mut active = Active::default();
                    for lane in (0..3).filter(|lane| part.len() > 9 || lane % 2 == round % 2) {
                        let text = part.clone().map(|at| (at, ((at * 7 + lane * 5 + round * 11) % 37) as u32));
                        let wanted = part.clone().filter(|at| at % 3 == round % 3 || part.len() == 1);
                        active.add(lane, text, |at| 0..(at + 3 + round).min(40), wanted);
                    }
                    let [a, b] = [&mut plain, &mut again].map(|cache| {
                        let states = tch::no_grad(|| model.decoder.partial(&active, cache, model.arithmetic));
                        copied(&states.unwrap()).unwrap()
                    });
                    assert_eq!(a.len(), active.wanted.len() * model.config().hidden_size);
                    let gap = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(a.len() == b.len() && gap < 1e-4, "{json}, round {round}, {part:?}: {gap}");
                }
            }
            assert!(again.replays.count() >= 2 && plain.replays.count() == 0);
        }
    }
}
