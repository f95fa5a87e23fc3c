//! How long a gap is: it is filled at every length within its bounds, and gets the length at which its filling
//! **and** the next tokens to its right are most probable together.
//!
//! The log-probability is that of the chain rule, from the gap's first position to the last of those tokens: each
//! token is scored with everything before it known, and itself and the rest of the stretch masked. What follows the
//! stretch is visible; other gaps are masked. The filling alone is not enough: a short one has fewer factors, so the
//! shortest would win even if the text does not continue well after it. A mean over its tokens favours long ones,
//! because most of their tokens follow from their first.

use std::ops::Range;

use crate::cache::Active;
use crate::decode::canvas::Canvas;
use crate::decode::diffusion::{Filling, Revealed};
use crate::decode::options::DiffusionDecoding;
use crate::error::ModelError;
use crate::model::Model;

/// Given tokens to the right of a gap that take part: with fewer the wrong length is told apart less often, and more of them only
/// cost forwards, for they follow from each other.
const RIGHT: usize = 8;
/// Positions that one forward reads at most (one canvas is always read).
const POSITIONS: usize = 1 << 14;

/// A gap at one of its lengths.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Number of the template.
    pub of: usize,
    pub canvas: Canvas,
    /// Where the gap lies on it.
    pub gap: Range<usize>,
}

/// The length that was found for the gap of a template.
#[derive(Debug)]
pub(crate) struct Best {
    pub of: usize,
    pub length: usize,
    /// Canvases that were read to find it.
    pub read: u32,
}

/// A canvas of the chain: `token` is asked for at `position`, which is masked.
struct Link {
    candidate: usize,
    tokens: Vec<u32>,
    position: usize,
    token: u32,
}

/// Is asked before every forward; its error ends the search.
pub type GoOn<'a> = dyn FnMut() -> Result<(), ModelError> + 'a;

pub(crate) struct Search<'m> {
    model: &'m Model,
    options: &'m DiffusionDecoding,
    mask: u32,
    go_on: &'m mut GoOn<'m>,
}

impl<'m> Search<'m> {
    /// Errors if the model has no mask token.
    pub fn new(model: &'m Model, options: &'m DiffusionDecoding, go_on: &'m mut GoOn<'m>) -> Result<Self, ModelError> {
        Ok(Self { model, options, mask: model.config.mask_token_id()?, go_on })
    }

    /// The best length of each template among its candidates, of equals the shortest. The candidates of all templates are read
    /// together.
    pub fn best(&mut self, candidates: Vec<Candidate>) -> Result<Vec<Best>, ModelError> {
        let fillings = self.fill(&candidates)?;
        let mut links = Vec::new();
        for (number, (candidate, filling)) in candidates.iter().zip(&fillings).enumerate() {
            links.extend(self.chain(number, candidate, &filling.0));
        }
        // No token at all has no probability to compare, so that a gap with nothing to its right is filled if it may be.
        let mut scores = vec![f64::NEG_INFINITY; candidates.len()];
        links.iter().for_each(|link| scores[link.candidate] = 0.0);
        let mut read: Vec<u32> = fillings.iter().map(|(_, nfe)| *nfe).collect();
        let mut from = 0;
        while from < links.len() {
            let mut positions = 0;
            let alike = |link: &Link| self.model.rotary_length(link.tokens.len());
            let fits = |link: &&Link| {
                positions += link.tokens.len();
                positions <= POSITIONS && alike(link) == alike(&links[from])
            };
            let count = links[from..].iter().take_while(fits).count().max(1);
            let part = &links[from..from + count];
            (self.go_on)()?;
            for (link, score) in part.iter().zip(self.log_probabilities(part)?) {
                scores[link.candidate] += score;
                read[link.candidate] += 1;
            }
            from += count;
        }
        let mut best: Vec<Best> = Vec::new();
        let mut top = f64::NEG_INFINITY;
        for ((candidate, score), read) in candidates.iter().zip(scores).zip(read) {
            match best.last_mut().filter(|last| last.of == candidate.of) {
                Some(last) => {
                    last.read += read;
                    if score > top {
                        (last.length, top) = (candidate.gap.len(), score);
                    }
                }
                None => {
                    best.push(Best { of: candidate.of, length: candidate.gap.len(), read });
                    top = score;
                }
            }
        }
        Ok(best)
    }

    /// Tokens of each candidate's gap, and the forwards that they took. As many canvases are on their way as one forward may read;
    /// one whose gap is full leaves, whatever else is masked on it.
    fn fill(&mut self, candidates: &[Candidate]) -> Result<Vec<(Vec<u32>, u32)>, ModelError> {
        let longest = candidates.iter().map(|candidate| candidate.canvas.tokens.len()).max().unwrap_or(0);
        let most = (POSITIONS / longest.max(1)).max(1);
        let mut filling = Filling::new(self.model, self.options.clone())?;
        let mut filled = vec![(Vec::new(), 0); candidates.len()];
        let mut empty: Vec<usize> = candidates.iter().map(|candidate| candidate.gap.len()).collect();
        let mut waiting = (0..candidates.len()).filter(|&number| !candidates[number].gap.is_empty());
        // Numbers of the candidates by id.
        let mut joined = Vec::new();
        loop {
            for number in waiting.by_ref().take(most - filling.going()) {
                filling.join(candidates[number].canvas.clone())?;
                joined.push(number);
            }
            if filling.going() == 0 {
                return Ok(filled);
            }
            (self.go_on)()?;
            let mut left = Vec::new();
            for Revealed { id, reveals, .. } in filling.step()? {
                let number = joined[id as usize];
                let gap = &candidates[number].gap;
                empty[number] -= reveals.iter().filter(|reveal| gap.contains(&(reveal.position as usize))).count();
                if empty[number] == 0 {
                    left.extend(filling.cancel(id).map(|decoded| (id, decoded)));
                }
            }
            // A stop token may have ended a canvas inside its gap.
            left.extend(filling.take_finished());
            for (id, mut decoded) in left {
                let number = joined[id as usize];
                let gap = candidates[number].gap.clone();
                let end = decoded.tokens.last().copied().unwrap_or_default();
                decoded.tokens.resize(decoded.tokens.len().max(gap.end), end);
                filled[number] = (decoded.tokens[gap].to_vec(), decoded.nfe);
            }
        }
    }

    /// The canvases whose tokens' log-probabilities make up a candidate's.
    fn chain(&self, number: usize, candidate: &Candidate, filling: &[u32]) -> Vec<Link> {
        let Candidate { canvas, gap, .. } = candidate;
        let right = (gap.end..canvas.tokens.len()).filter(|&at| !canvas.masked[at]).take(RIGHT);
        let right: Vec<usize> = right.collect();
        let mut known: Vec<u32> = canvas.tokens.clone();
        known[gap.clone()].copy_from_slice(filling);
        let hidden = (0..known.len()).filter(|&at| canvas.masked[at] && !gap.contains(&at));
        let mut tokens = known.clone();
        for at in hidden.chain(gap.clone()).chain(right.iter().copied()) {
            tokens[at] = self.mask;
        }
        let mut links = Vec::new();
        for position in gap.clone().chain(right) {
            let token = known[position];
            links.push(Link { candidate: number, tokens: tokens.clone(), position, token });
            tokens[position] = token;
        }
        links
    }

    /// Log-probability of what each link asks for, in one forward. There is at least one link, and all have one rotary length.
    fn log_probabilities(&self, links: &[Link]) -> Result<Vec<f64>, ModelError> {
        let model = self.model;
        let back = usize::from(self.options.shift);
        let capacity = links.iter().map(|link| link.tokens.len()).max().unwrap_or(0);
        let rotary_length = model.rotary_length(links[0].tokens.len());
        let mut active = Active { rotary_length, ..Active::default() };
        for (lane, link) in links.iter().enumerate() {
            let length = link.tokens.len();
            let tokens = link.tokens.iter().copied().enumerate();
            let wanted = std::iter::once(link.position - back);
            active.add(lane, tokens, |_| 0..length, wanted);
        }
        tch::no_grad(|| {
            let hidden = model.decoder.whole(&active, capacity, model.arithmetic)?;
            let tokens: Vec<u32> = links.iter().map(|link| link.token).collect();
            model.log_probabilities(&hidden, &tokens)
        })
    }
}
