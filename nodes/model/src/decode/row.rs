//! A canvas being decoded: its current block, what it asks the model for, and what it takes from the answers.

use std::ops::Range;

use difflow_diffusion::keyed;
use rand::RngExt;

use crate::decode::calm::Calm;
use crate::decode::canvas::{Canvas, Decoded, Reveal};
use crate::decode::choose::Choice;
use crate::decode::options::{Budget, Caching, DiffusionDecoding, Reveals};
use crate::decode::order::revealed;
use crate::pattern::Context;

/// A masked position that this step needs logits for, with its uniform number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub position: usize,
    pub uniform: f64,
}

#[derive(Debug)]
pub(crate) struct Row {
    canvas: Canvas,
    mask: u32,
    tokens: Vec<u32>,
    masked: Vec<bool>,
    /// Positions from here on were cut off by a stop token, and are not attended to.
    end: usize,
    /// The text ends here: at `end`, or before it where the end is open.
    text_end: usize,
    stopped: bool,
    /// Start of the masked positions at the end of the canvas.
    tail: usize,
    /// Masked positions at the start.
    holes: usize,
    block: Range<usize>,
    block_steps: u32,
    block_step: u32,
    /// Forwards in this block since, and with, the last one that read the whole canvas; 0 before it.
    age: u32,
    /// With a context: positions that have been read as clean text.
    read: usize,
    step: u32,
    nfe: u32,
    /// With the decoder that asks for it: how each position has moved.
    calm: Vec<Calm>,
    history: Vec<Reveal>,
}

impl Row {
    pub fn new(canvas: Canvas, mask: u32) -> Self {
        let known = canvas.tokens.iter().zip(&canvas.masked);
        let tail = canvas.masked.iter().rposition(|masked| !masked).map_or(0, |last| last + 1);
        Self {
            mask,
            tokens: known.map(|(&token, &masked)| if masked { mask } else { token }).collect(),
            masked: canvas.masked.clone(),
            end: canvas.tokens.len(),
            text_end: canvas.tokens.len(),
            stopped: false,
            tail,
            holes: canvas.masked.iter().filter(|&&masked| masked).count(),
            block: 0..0,
            block_steps: 0,
            block_step: 0,
            age: 0,
            read: 0,
            step: 0,
            nfe: 0,
            calm: vec![Calm::default(); canvas.tokens.len()],
            history: Vec::new(),
            canvas,
        }
    }

    /// What it was asked to fill.
    pub fn canvas(&self) -> &Canvas {
        &self.canvas
    }

    /// Positions of the canvas.
    pub fn length(&self) -> usize {
        self.canvas.tokens.len()
    }

    /// What the next forward has to answer; nothing when the canvas is full. Steps that reveal nothing are passed over.
    pub fn plan(&mut self, options: &DiffusionDecoding) -> Vec<Candidate> {
        loop {
            if !self.masked[self.block.clone()].contains(&true) && !self.enter_block(options) {
                return Vec::new();
            }
            let wanted = self.candidates(options);
            if !wanted.is_empty() {
                return wanted;
            }
            self.pass_step();
        }
    }

    /// The next block with something to fill; false when there is none.
    fn enter_block(&mut self, options: &DiffusionDecoding) -> bool {
        let Some(first) = self.masked[..self.end].iter().position(|&masked| masked) else { return false };
        // Blocks of a model of block diffusion lie where they lay in training.
        let start = options.context.and(options.block).map_or(first, |block| first / block * block);
        let end = options.block.map_or(self.end, |block| start.saturating_add(block).min(self.end));
        self.block = start..end;
        let holes = |part: &[bool]| part.iter().filter(|&&masked| masked).count();
        let here = holes(&self.masked[self.block.clone()]);
        let before = self.holes - holes(&self.masked);
        // Shares add up to the steps asked for, however they are rounded.
        let share = |steps: u32| {
            let at = |filled: usize| u64::from(steps) * filled as u64 / self.holes as u64;
            (at(before + here) - at(before)).max(1) as u32
        };
        self.block_steps = match options.reveals {
            Reveals::Random { steps } | Reveals::Confidence { budget: Budget::Steps(steps), .. } => {
                // How long the text may become is no measure of how long it will be.
                if options.context.is_some() { steps } else { share(steps) }
            }
            _ => 0,
        };
        (self.block_step, self.age) = (0, 0);
        true
    }

    fn pass_step(&mut self) {
        self.step += 1;
        self.block_step += 1;
    }

    /// Every masked position of the block draws a coin and a uniform number at every step, so what one position draws does not
    /// depend on what the others do.
    fn candidates(&self, options: &DiffusionDecoding) -> Vec<Candidate> {
        let mut rng = keyed::rng(options.seed, "decode", u64::from(self.step), self.canvas.key);
        let masked = self.block.clone().filter(|&i| self.masked[i]);
        if options.reveals == Reveals::FirstHitting {
            let masked: Vec<usize> = masked.collect();
            let position = masked[rng.random_range(0..masked.len() as u64) as usize];
            return vec![Candidate { position, uniform: keyed::uniform(&mut rng) }];
        }
        let chance = match options.reveals {
            Reveals::Random { .. } => self.chance(),
            _ => 1.0,
        };
        let drawn = masked.map(|position| (position, keyed::uniform(&mut rng), keyed::uniform(&mut rng)));
        drawn
            .filter(|&(_, coin, _)| coin < chance)
            .map(|(position, _, uniform)| Candidate { position, uniform })
            .collect()
    }

    /// Probability that a masked position is revealed in this step of the block's grid, from t to s: (t − s) / t.
    fn chance(&self) -> f64 {
        1.0 / f64::from(self.block_steps.saturating_sub(self.block_step).max(1))
    }

    /// The positions that the next forward computes; counts the forward.
    pub fn positions(&mut self, options: &DiffusionDecoding) -> Range<usize> {
        self.nfe += if self.guided(options) { 2 } else { 1 };
        if options.context.is_some() {
            return self.block_positions(options);
        }
        let whole =
            options.cache == Caching::None || self.age == 0 || options.refresh.is_some_and(|most| self.age >= most);
        self.age = if whole { 1 } else { self.age + 1 };
        if whole {
            return 0..self.end;
        }
        // With shift, the block's first token is predicted at the position before it, which sees the block and so changes with it.
        let start = self.block.start - usize::from(options.shift).min(self.block.start);
        match options.cache {
            Caching::Dual => start..self.block.end.min(self.end),
            _ => start..self.end,
        }
    }

    /// The block, and before it the clean text that is not in the cache: at the start of a block the one before it.
    fn block_positions(&mut self, options: &DiffusionDecoding) -> Range<usize> {
        let first = self.block.start;
        // With shift the clean token before the block predicts its first position.
        let before = options.shift && first > 0 && self.masked[first];
        let read = if options.cache == Caching::None { 0 } else { self.read };
        self.read = first;
        (if before { read.min(first - 1) } else { read })..self.block.end
    }

    /// The clean text before its block, where that is kept and read from left to right; else nothing.
    pub fn before_block(&self, options: &DiffusionDecoding) -> &[u32] {
        if self.keeps_text(options) { &self.tokens[..self.block.start] } else { &[] }
    }

    /// As much of it as has been read.
    pub fn read(&self, options: &DiffusionDecoding) -> &[u32] {
        if self.keeps_text(options) { &self.tokens[..self.read] } else { &[] }
    }

    /// Takes so many of the first positions as read.
    pub fn know(&mut self, count: usize) {
        self.read = count;
    }

    fn keeps_text(&self, options: &DiffusionDecoding) -> bool {
        options.context.is_some() && options.cache != Caching::None && options.guidance == 0.0
    }

    /// The end of what a position sees.
    pub fn sees(&self, position: usize, options: &DiffusionDecoding) -> usize {
        let block = options.block.unwrap_or(1);
        match options.context {
            None => self.end,
            Some(_) if position >= self.block.start => self.block.end,
            Some(Context::Causal) => position + 1,
            Some(Context::Block) => (position / block + 1) * block,
        }
    }

    /// Whether a second canvas without the given tokens is read for guidance.
    pub fn guided(&self, options: &DiffusionDecoding) -> bool {
        options.guidance != 0.0 && self.canvas.masked.iter().skip(1).any(|masked| !masked)
    }

    /// Tokens as they stand; with `given` false the given ones (but the anchor) are masked.
    pub fn token(&self, position: usize, given: bool) -> u32 {
        let hidden = !given && position > 0 && !self.canvas.masked[position];
        if hidden { self.mask } else { self.tokens[position] }
    }

    /// With the decoder that asks for it: the distribution that a position had in the forward before, where there was one.
    pub fn before(&self, position: usize, options: &DiffusionDecoding) -> Option<&[f32]> {
        matches!(options.reveals, Reveals::Stable { .. }).then(|| self.calm[position].before())
    }

    /// Where it is being filled: all of it, or the current block of block diffusion.
    pub fn open(&self, options: &DiffusionDecoding) -> Range<usize> {
        if options.context.is_some() { self.block.clone() } else { 0..self.end }
    }

    /// The different tokens that are known, for the repetition penalty.
    pub fn present(&self) -> Vec<u32> {
        let mut present: Vec<u32> = (0..self.end).filter(|&i| !self.masked[i]).map(|i| self.tokens[i]).collect();
        present.sort_unstable();
        present.dedup();
        present
    }

    /// Takes what the decoder reveals of the model's choices; returns the new part of the history.
    pub fn settle(&mut self, wanted: &[Candidate], choices: &[Choice], options: &DiffusionDecoding) -> &[Reveal] {
        let settled: Vec<bool> = match options.reveals {
            Reveals::Stable { divergence, threshold, forwards } => {
                let calm = |(candidate, choice): (&Candidate, &Choice)| {
                    let calm = &mut self.calm[candidate.position];
                    calm.take(choice, divergence) >= forwards && choice.score >= threshold
                };
                wanted.iter().zip(choices).map(calm).collect()
            }
            _ => Vec::new(),
        };
        let steps_left = self.block_steps.saturating_sub(self.block_step).max(1);
        let order = revealed(choices, &settled, options.reveals, steps_left);
        let before = self.history.len();
        for place in order {
            let (position, choice) = (wanted[place].position, &choices[place]);
            self.tokens[position] = choice.token;
            self.masked[position] = false;
            let reveal = Reveal {
                step: self.step,
                position: position as u32,
                token: choice.token,
                probability: choice.probability,
            };
            self.history.push(reveal);
        }
        self.pass_step();
        self.stop_at(options);
        &self.history[before..]
    }

    fn stop_at(&mut self, options: &DiffusionDecoding) {
        let ends = |at: &usize| !self.masked[*at] && options.stop.contains(&self.tokens[*at]);
        if let Some(at) = (self.tail..self.text_end).find(ends) {
            self.stopped = true;
            self.text_end = at + 1;
            self.masked[at + 1..].fill(false);
            if options.open_end {
                let end = self.tokens[at];
                self.tokens[at + 1..].fill(end);
                return;
            }
            self.end = at + 1;
            self.block.end = self.block.end.min(self.end);
            self.block.start = self.block.start.min(self.block.end);
        }
    }

    pub fn finish(mut self) -> Decoded {
        self.tokens.truncate(self.text_end);
        self.history.retain(|reveal| (reveal.position as usize) < self.text_end);
        Decoded { tokens: self.tokens, nfe: self.nfe, history: self.history, stopped: self.stopped }
    }
}
