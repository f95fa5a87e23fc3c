//! What the masked tokens of continuations cost a block-diffusion model. The clean text of a prompt is read once, that of a continuation
//! once for all its draws, and of a draw only the blocks that it masks; a block's cost depends on what is masked in it alone, so draws that
//! mask it alike share that, too.

use std::collections::BTreeMap;
use std::ops::Range;

use tch::Tensor;

use crate::cache::{Active, Cache};
use crate::error::ModelError;
use crate::model::Model;
use crate::objective::Blocks;
use crate::pattern::Context;

/// A prompt and what may follow it, with some of its tokens masked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoisedContinued {
    /// At least one token, BOS first if the model wants one.
    pub prompt: Vec<u32>,
    /// Each stands directly behind the prompt, without the others.
    pub continuations: Vec<NoisedContinuation>,
}

/// A continuation and its draws.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoisedContinuation {
    pub tokens: Vec<u32>,
    /// Which tokens each draw masks: as many as there are.
    pub draws: Vec<Vec<bool>>,
}

/// The masked tokens of one block of a continuation in one draw, or in several that mask it alike.
struct Masked {
    /// Positions of the block, what the prompt has of it included.
    block: Range<usize>,
    /// Of each of its positions.
    masked: Vec<bool>,
    /// The draws.
    draws: Vec<usize>,
}

/// The last hidden states of the prompts' whole blocks.
struct Prompts {
    rows: Tensor,
    /// Which row is a lane's.
    ends: BTreeMap<usize, i64>,
}

/// A continuation in its lane of the cache, on which its blocks are still to be measured, the last one first.
struct UnderWay<'a> {
    lane: usize,
    prompt: &'a [u32],
    continuation: &'a NoisedContinuation,
    /// Popped from the end.
    todo: Vec<Masked>,
    /// Where the hidden state that predicts the first token of a block is, by the block's start.
    before: BTreeMap<usize, i64>,
}

impl UnderWay<'_> {
    fn token(&self, at: usize) -> u32 {
        let from = self.prompt.len();
        if at < from { self.prompt[at] } else { self.continuation.tokens[at - from] }
    }
}

/// How texts are read.
#[derive(Clone, Copy)]
struct How {
    blocks: Blocks,
    /// As in [`Active`].
    rotary_length: Option<usize>,
}

/// By continuation, draw and token.
type Costs = Vec<Vec<Vec<f64>>>;

impl Model {
    /// Returns, of each prompt, continuation, draw and token, −ln p(token | clean text before its block, the block as the draw has it) in
    /// nats; 0 of tokens that a draw does not mask. Errors if one does not fit the model, or it has no mask token.
    pub fn noised_continuation_nats(
        &self,
        texts: &[NoisedContinued],
        blocks: Blocks,
    ) -> Result<Vec<Costs>, ModelError> {
        self.config.mask_token_id()?;
        for text in texts {
            self.check_prompt(&text.prompt, 0)?;
            for NoisedContinuation { tokens, draws } in &text.continuations {
                self.check_prompt(&[&text.prompt[..], tokens].concat(), 0)?;
                if let Some(draw) = draws.iter().find(|draw| draw.len() != tokens.len()) {
                    let wanted = format!("{}, as many as the continuation has tokens", tokens.len());
                    return Err(ModelError::input("masked tokens of a draw", draw.len(), wanted));
                }
            }
        }
        let longest = |text: &NoisedContinued| text.continuations.iter().map(|one| one.tokens.len()).max().unwrap_or(0);
        let room = |text: &NoisedContinued| text.prompt.len() + longest(text);
        let nothing = |one: &NoisedContinuation| vec![vec![0.0; one.tokens.len()]; one.draws.len()];
        let mut all: Vec<Costs> = texts.iter().map(|text| text.continuations.iter().map(nothing).collect()).collect();
        let groups = self.rotary_groups(texts.iter().map(room));
        if groups.len() > 1 {
            for (_, places) in groups {
                let own: Vec<NoisedContinued> = places.iter().map(|&place| texts[place].clone()).collect();
                for (place, found) in places.into_iter().zip(self.noised_continuation_nats(&own, blocks)?) {
                    all[place] = found;
                }
            }
            return Ok(all);
        }
        let how = How { blocks, rotary_length: groups.first().and_then(|(length, _)| *length) };
        let size = (texts.len(), texts.iter().map(room).max().unwrap_or(0));
        tch::no_grad(|| {
            let mut cache = self.decoder.cache(&self.config, size, self.arithmetic)?;
            let prompts = self.read_prompts(texts, how, &mut cache)?;
            for round in 0..texts.iter().map(|text| text.continuations.len()).max().unwrap_or(0) {
                self.measure_round(texts, round, how, &prompts, &mut cache, &mut all)?;
            }
            Ok(all)
        })
    }

    /// Reads the whole blocks of the prompts.
    fn read_prompts(
        &self,
        texts: &[NoisedContinued],
        How { blocks, rotary_length }: How,
        cache: &mut Cache,
    ) -> Result<Option<Prompts>, ModelError> {
        let (mut active, mut ends) = (Active { rotary_length, ..Active::default() }, BTreeMap::new());
        for (lane, text) in texts.iter().enumerate() {
            let whole = first_block(text.prompt.len(), blocks);
            if whole > 0 {
                ends.insert(lane, ends.len() as i64);
                let tokens = text.prompt[..whole].iter().copied().enumerate();
                active.add(lane, tokens, |at| clean_sees(at, whole, blocks), std::iter::once(whole - 1));
            }
        }
        if ends.is_empty() {
            return Ok(None);
        }
        Ok(Some(Prompts { rows: self.decoder.partial(&active, cache, self.arithmetic)?, ends }))
    }

    /// Measures the continuations with this number.
    fn measure_round(
        &self,
        texts: &[NoisedContinued],
        round: usize,
        how: How,
        prompts: &Option<Prompts>,
        cache: &mut Cache,
        all: &mut [Costs],
    ) -> Result<(), ModelError> {
        let How { blocks, rotary_length } = how;
        let (mut under_way, mut active) = (Vec::new(), Active { rotary_length, ..Active::default() });
        let (mut states, mut from_prompts) = (Vec::new(), 0);
        if let Some(Prompts { rows, .. }) = prompts {
            from_prompts = rows.size()[0];
            states.push(rows.shallow_clone());
        }
        for (lane, text) in texts.iter().enumerate() {
            let Some(continuation) = text.continuations.get(round) else { continue };
            let (prompt, end) = (text.prompt.as_slice(), text.prompt.len() + continuation.tokens.len());
            let todo = by_block(prompt.len(), continuation, blocks);
            let mut one = UnderWay { lane, prompt, continuation, todo, before: BTreeMap::new() };
            let first = first_block(prompt.len(), blocks);
            if let Some(row) = prompts.as_ref().and_then(|prompts| prompts.ends.get(&lane)) {
                one.before.insert(first, *row);
            }
            // The clean text of the last block is seen by nobody. What an earlier continuation left behind the prompt is written over.
            let last = first_block(end.saturating_sub(1), blocks);
            if last > first {
                let starts: Vec<usize> = (first..=last).step_by(blocks.size.max(1)).skip(1).collect();
                for (number, start) in starts.iter().enumerate() {
                    one.before.insert(*start, from_prompts + (active.wanted.len() + number) as i64);
                }
                let tokens = (first..last).map(|at| (at, one.token(at)));
                active.add(lane, tokens, |at| clean_sees(at, last, blocks), starts.iter().map(|start| start - 1));
            }
            under_way.push(one);
        }
        if !active.places.is_empty() {
            states.push(self.decoder.partial(&active, cache, self.arithmetic)?);
        }
        let clean = if states.is_empty() { None } else { Some(Tensor::f_cat(&states, 0)?) };
        while under_way.iter().any(|one| !one.todo.is_empty()) {
            self.measure_blocks(&mut under_way, round, how, &clean, cache, all)?;
        }
        Ok(())
    }

    /// Measures one block of each continuation that has one left. It writes over the clean block, which only later blocks have seen.
    fn measure_blocks(
        &self,
        under_way: &mut [UnderWay],
        round: usize,
        How { blocks, rotary_length }: How,
        clean: &Option<Tensor>,
        cache: &mut Cache,
        all: &mut [Costs],
    ) -> Result<(), ModelError> {
        let mask = self.config.mask_token_id()?;
        let mut active = Active { rotary_length, ..Active::default() };
        // Where the cost of a row goes: lane, token, and the draws.
        let (mut uses, mut targets) = (Vec::new(), Vec::new());
        let (mut clean_uses, mut clean_rows, mut clean_targets) = (Vec::new(), Vec::new(), Vec::new());
        for one in under_way.iter_mut() {
            let Some(Masked { block, masked, draws }) = one.todo.pop() else { continue };
            let hidden = |at: usize| masked[at - block.start];
            let tokens = block.clone().map(|at| (at, if hidden(at) { mask } else { one.token(at) }));
            // With the shift, the first token of a block is predicted by the clean text before it.
            let start = block.start;
            let from_clean = |at: usize| blocks.shift && at == start;
            let wanted: Vec<usize> = block.clone().filter(|&at| hidden(at) && !from_clean(at)).collect();
            let from = one.prompt.len();
            for &at in &wanted {
                uses.push((one.lane, at - from, draws.clone()));
                targets.push(i64::from(one.token(at)));
            }
            if let Some(row) = one.before.get(&start).filter(|_| hidden(start) && from_clean(start)) {
                clean_rows.push(*row);
                clean_targets.push(i64::from(one.token(start)));
                clean_uses.push((one.lane, start - from, draws));
            }
            if !wanted.is_empty() {
                let back = usize::from(blocks.shift);
                let end = block.end;
                active.add(one.lane, tokens, |_| 0..end, wanted.iter().map(|at| at - back));
            }
        }
        let mut rows = Vec::new();
        if !targets.is_empty() {
            rows.push(self.decoder.partial(&active, cache, self.arithmetic)?);
        }
        if let Some(clean) = clean.as_ref().filter(|_| !clean_rows.is_empty()) {
            rows.push(clean.f_index_select(0, &Tensor::f_from_slice(&clean_rows)?.f_to_device(clean.device())?)?);
        }
        uses.append(&mut clean_uses);
        targets.append(&mut clean_targets);
        if targets.is_empty() {
            return Ok(());
        }
        let costs = self.cross_entropies(&Tensor::f_cat(&rows, 0)?, targets)?;
        for ((lane, token, draws), cost) in uses.into_iter().zip(costs) {
            for draw in draws {
                all[lane][round][draw][token] = f64::from(cost);
            }
        }
        Ok(())
    }
}

/// What a clean token attends to, in a text of `end` tokens.
fn clean_sees(at: usize, end: usize, blocks: Blocks) -> Range<usize> {
    let until = match blocks.context {
        Context::Causal => at + 1,
        Context::Block => (first_block(at, blocks) + blocks.size.max(1)).min(end),
    };
    0..until
}

/// Where the block of a position begins.
fn first_block(at: usize, blocks: Blocks) -> usize {
    at / blocks.size.max(1) * blocks.size.max(1)
}

/// The blocks of a continuation as the draws mask them, the first block first.
fn by_block(from: usize, continuation: &NoisedContinuation, blocks: Blocks) -> Vec<Masked> {
    let end = from + continuation.tokens.len();
    let mut all = Vec::new();
    for start in (first_block(from, blocks)..end).step_by(blocks.size.max(1)) {
        let block = start..(start + blocks.size.max(1)).min(end);
        let mut alike: BTreeMap<Vec<bool>, Vec<usize>> = BTreeMap::new();
        for (number, draw) in continuation.draws.iter().enumerate() {
            let masked: Vec<bool> = block.clone().map(|at| at >= from && draw[at - from]).collect();
            if masked.contains(&true) {
                alike.entry(masked).or_default().push(number);
            }
        }
        all.extend(alike.into_iter().map(|(masked, draws)| Masked { block: block.clone(), masked, draws }));
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Arithmetic;
    use crate::batch::MicroBatch;
    use crate::objective::{Objective, ObjectiveOptions};
    use crate::pattern::Pattern;
    use crate::small::{self, LLAMA};

    fn tokens(key: u32, length: usize) -> Vec<u32> {
        (0..length as u32).map(|i| (i + key).wrapping_mul(2_654_435_761) % 37).collect()
    }

    fn continuation(key: u32, length: usize) -> NoisedContinuation {
        let masked = |draw: u32, at: u32| (at * 7 + draw * 11 + key * 13).is_multiple_of(2 + draw % 3);
        // The last draw masks as the one before it, to be shared; the first but one masks nothing.
        let draws = [1u32, 2, 3, 4, 4].map(|draw| (0..length as u32).map(|at| draw != 2 && masked(draw, at)).collect());
        NoisedContinuation { tokens: tokens(key, length), draws: draws.into() }
    }

    /// Against the whole of [x_t ; x_0], token by token: prompts that end at a block's end and inside one, continuations of many blocks and
    /// of a part of one, several of different lengths in a lane, both contexts, with and without shift.
    #[test]
    fn a_masked_token_costs_what_it_costs_in_the_whole_text() {
        crate::set_num_threads(1);
        let lengths = [(5, vec![9, 2, 1, 6]), (8, vec![3, 11]), (1, vec![1, 8]), (3, vec![1])];
        let texts: Vec<NoisedContinued> = (0..)
            .zip(&lengths)
            .map(|(key, (prompt, lengths))| NoisedContinued {
                prompt: tokens(key, *prompt),
                continuations: (100..).zip(lengths).map(|(i, &n)| continuation(key * 7 + i, n)).collect(),
            })
            .collect();
        for (context, shift, kernels, size) in [
            (Context::Causal, true, true, 4),
            (Context::Causal, false, true, 4),
            (Context::Block, true, true, 4),
            (Context::Block, false, true, 3),
            (Context::Causal, true, false, 4),
            (Context::Causal, true, true, 64),
        ] {
            let mut model = small::model(LLAMA);
            model.add_mask_token(7).unwrap();
            model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
            let blocks = Blocks { size, context, shift, ar_weight: 0.0 };
            let options = ObjectiveOptions::recommended(Objective::Block(blocks));
            let found = model.noised_continuation_nats(&texts, blocks).unwrap();
            let mut compared = 0;
            for (text, found) in texts.iter().zip(&found) {
                for (one, found) in text.continuations.iter().zip(found) {
                    for (draw, found) in one.draws.iter().zip(found) {
                        for (at, &masked) in draw.iter().enumerate() {
                            let whole = [&text.prompt[..], &one.tokens].concat();
                            let mut batch = MicroBatch::padded(std::slice::from_ref(&whole));
                            let from = text.prompt.len();
                            batch.masked[from..].copy_from_slice(draw);
                            batch.weights = (0..whole.len()).map(|i| f64::from(u8::from(i == from + at))).collect();
                            let sums = model.nelbo_sums(&batch, &Pattern::Full, options).unwrap();
                            let wanted = if masked { sums.rows[0].weighted } else { 0.0 };
                            assert!((found[at] - wanted).abs() < 1e-4, "{blocks:?} {at}: {} {wanted}", found[at]);
                            compared += usize::from(masked);
                        }
                    }
                }
            }
            assert!(compared > 50, "{compared}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut model = small::model(LLAMA);
        let blocks = Blocks { size: 4, context: Context::Causal, shift: true, ar_weight: 0.0 };
        let text = |draws| {
            let continuations = vec![NoisedContinuation { tokens: vec![1, 2], draws }];
            NoisedContinued { prompt: vec![1], continuations }
        };
        assert!(model.noised_continuation_nats(&[text(vec![])], blocks).is_err(), "no mask token");
        model.add_mask_token(7).unwrap();
        assert!(model.noised_continuation_nats(&[text(vec![vec![true]])], blocks).is_err());
        let nothing = model.noised_continuation_nats(&[text(vec![vec![false; 2]])], blocks).unwrap();
        assert_eq!(nothing, [[[[0.0, 0.0]]]]);
        assert!(model.noised_continuation_nats(&[], blocks).unwrap().is_empty());
    }
}
