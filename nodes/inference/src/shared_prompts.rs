//! Candidates of a question that share the work of what is given: of models whose clean text does not depend on what follows it.

use std::ops::Range;

use difflow_model::{Blocks, Continued, NoisedContinuation, NoisedContinued};

use crate::candidates::{Noised, Question, Scorer};
use crate::error::InferenceError;
use crate::likelihood::Batching;
use crate::progress::{GoOn, Progress};
use crate::session::Session;

/// The draws of each candidate of each question.
type Draws = Vec<Vec<Vec<f64>>>;

impl Session {
    /// −ln p of each candidate, which share the work of what is given where that is the same.
    pub(crate) fn exact<E: From<InferenceError>>(
        &self,
        questions: &[Question],
        batching: Batching,
        go_on: &mut GoOn<E>,
    ) -> Result<Draws, E> {
        let mut all: Draws = questions.iter().map(|one| vec![vec![0.0]; one.candidates.len()]).collect();
        let texts = shared(questions);
        let mut done = 0;
        for batch in batching.of(texts.len(), |at| texts[at].longest(questions)) {
            go_on(Progress { done, of: texts.len() })?;
            let continued = |text: &Shared| Continued {
                prompt: text.prompt.to_vec(),
                continuations: text.rests(questions).map(<[u32]>::to_vec).collect(),
            };
            let own: Vec<Continued> = batch.iter().map(|&at| continued(&texts[at])).collect();
            let nats = self.model().continuation_nats(&own).map_err(InferenceError::from)?;
            for (&at, nats) in batch.iter().zip(nats) {
                for (&(question, candidate), nats) in texts[at].candidates.iter().zip(nats) {
                    all[question][candidate] = vec![nats];
                }
            }
            done += batch.len();
        }
        Ok(all)
    }

    /// The draws of each candidate of a model that writes block by block. What is given is read once for all candidates and draws.
    pub(crate) fn by_blocks<E: From<InferenceError>>(
        &self,
        questions: &[Question],
        blocks: Blocks,
        (scorer, draws): (&Scorer, Range<u32>),
        batching: Batching,
        go_on: &mut GoOn<E>,
    ) -> Result<Draws, E> {
        let mut all: Draws = questions.iter().map(|one| vec![vec![]; one.candidates.len()]).collect();
        let texts = shared(questions);
        let mut done = 0;
        for batch in batching.of(texts.len(), |at| texts[at].longest(questions)) {
            go_on(Progress { done, of: texts.len() })?;
            let (mut own, mut weights) = (Vec::new(), Vec::new());
            for &at in &batch {
                let (mut continuations, mut of_text) = (Vec::new(), Vec::new());
                for &(question, candidate) in &texts[at].candidates {
                    let Question { id, candidates } = &questions[question];
                    let document = &candidates[candidate];
                    let measured = self.blocks_of(document);
                    let noised = draws.clone().map(|draw| scorer.noised(*id, draw, document.measured(), &measured));
                    let (masks, weights) = noised.map(|Noised { masked, weights }| (masked, weights)).unzip();
                    let tokens = document.tokens[document.given..].to_vec();
                    continuations.push(NoisedContinuation { tokens, draws: masks });
                    of_text.push(weights);
                }
                own.push(NoisedContinued { prompt: texts[at].prompt.to_vec(), continuations });
                weights.push(of_text);
            }
            let costs = self.model().noised_continuation_nats(&own, blocks).map_err(InferenceError::from)?;
            for ((&at, costs), weights) in batch.iter().zip(costs).zip(weights) {
                let of_candidates = costs.into_iter().zip(weights);
                for (&(question, candidate), (costs, weights)) in texts[at].candidates.iter().zip(of_candidates) {
                    let weights: Vec<Vec<f64>> = weights;
                    let sum = |(costs, weights): (Vec<f64>, Vec<f64>)| {
                        costs.iter().zip(&weights).map(|(cost, weight)| cost * weight).sum()
                    };
                    all[question][candidate] = costs.into_iter().zip(weights).map(sum).collect();
                }
            }
            done += batch.len();
        }
        Ok(all)
    }
}

/// What is given of some candidates of a question.
struct Shared<'a> {
    prompt: &'a [u32],
    /// The numbers of the question and of each of the candidates.
    candidates: Vec<(usize, usize)>,
}

impl Shared<'_> {
    /// What is measured of each candidate.
    fn rests<'a>(&'a self, questions: &'a [Question]) -> impl Iterator<Item = &'a [u32]> {
        self.candidates.iter().map(|&(question, candidate)| {
            let document = &questions[question].candidates[candidate];
            &document.tokens[document.given..]
        })
    }

    /// Tokens of the longest text.
    fn longest(&self, questions: &[Question]) -> usize {
        self.prompt.len() + self.rests(questions).map(<[u32]>::len).max().unwrap_or(0)
    }
}

/// What is given, each once a question.
fn shared(questions: &[Question]) -> Vec<Shared<'_>> {
    let mut texts = Vec::<Shared>::new();
    for (number, question) in questions.iter().enumerate() {
        let first = texts.len();
        for (candidate, document) in question.candidates.iter().enumerate() {
            let prompt = &document.tokens[..document.given];
            let known = texts[first..].iter().position(|text| text.prompt == prompt).map(|at| first + at);
            let at = known.unwrap_or_else(|| {
                texts.push(Shared { prompt, candidates: Vec::new() });
                texts.len() - 1
            });
            texts[at].candidates.push((number, candidate));
        }
    }
    texts
}
