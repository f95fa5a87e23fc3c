//! How probable the candidates of a question are: exactly, by Monte Carlo, or as the code or the text of the paper says.
//!
//! A draw masks some tokens of every candidate and asks for them with everything else in view. All candidates of a question are noised
//! alike: the same share of each is masked, and tokens at the same place get the same random number. A draw is addressed by (seed, task,
//! question, draw), so that more draws never change those before them.

use std::collections::HashMap;
use std::ops::Range;

use difflow_diffusion::keyed;
use difflow_model::{Context, MicroBatch, Objective, ObjectiveOptions, Pattern};
use serde::{Deserialize, Serialize};

use crate::error::InferenceError;
use crate::likelihood::{Batching, Document};
use crate::progress::{GoOn, Progress};
use crate::session::Session;

/// What the value of a candidate is; lower is more probable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Scoring {
    /// −ln p in nats, for models that read from left to right.
    Exact,
    /// A bound on −ln p in nats: l of L tokens are masked, l evenly from 1 to L, their cross-entropies summed and weighted by L/l.
    LladaMc,
    /// Nats a token, as the paper's text has them: the share t of the tokens masked at random, t in equal steps, weighted by 1/t.
    PaperText,
    /// Nats a token, as the paper's code has them: the same masks, the mean cross-entropy of the masked tokens, 0 where none is.
    PaperCode,
}

impl Scoring {
    /// Whether the value is one of the whole candidate; else it is one a token.
    pub fn is_sum(self) -> bool {
        matches!(self, Self::Exact | Self::LladaMc)
    }
}

/// A question to choose from, or with a single candidate one about its likelihood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its number within the task: what its random numbers are addressed by.
    pub id: u64,
    /// What is given of each, and what is measured.
    pub candidates: Vec<Document>,
}

/// How candidates are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scorer {
    pub scoring: Scoring,
    /// Draws of each candidate, or the steps of t; of no meaning for [`Scoring::Exact`].
    pub draws: u32,
    /// With the task's name the key of all random numbers.
    pub seed: u64,
    pub task: String,
}

/// The value of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Value {
    /// As [`Scoring`] says.
    pub value: f64,
    /// Of the draws; 0 where it is exact, `None` for a single draw.
    pub error: Option<Error>,
    /// Tokens that were measured.
    pub tokens: usize,
}

/// How far chance may have moved a value.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Error {
    /// Standard error.
    pub standard: f64,
    /// Half the width of the 95 % interval.
    pub half_width: f64,
}

impl Scorer {
    /// Where a draw of a question lies in the range of shares, from 0 to 1: the first ones are spread over it, the later ones between them.
    pub fn place(&self, question: u64, draw: u32) -> f64 {
        match self.scoring {
            Scoring::Exact => 0.0,
            Scoring::LladaMc => {
                let shift = keyed::uniform(&mut keyed::rng(self.seed, &self.stage("places"), question, 0));
                // The radical inverse of van der Corput.
                (shift + f64::from(draw.reverse_bits()) / 4_294_967_296.0).fract()
            }
            Scoring::PaperText | Scoring::PaperCode => {
                f64::from(self.draws.saturating_sub(draw)) / f64::from(self.draws.max(1))
            }
        }
    }

    /// Which of `tokens` measured tokens a draw masks.
    pub fn masked(&self, question: u64, draw: u32, tokens: usize) -> Vec<bool> {
        self.noised(question, draw, tokens, std::slice::from_ref(&(0..tokens))).masked
    }

    fn stage(&self, what: &str) -> String {
        format!("{} of {}", what, self.task)
    }

    /// A draw of measured tokens that lie in these blocks.
    pub(crate) fn noised(&self, question: u64, draw: u32, tokens: usize, blocks: &[Range<usize>]) -> Noised {
        let place = self.place(question, draw);
        let mut rng = keyed::rng(self.seed, &self.stage("masks"), question, u64::from(draw));
        let numbers: Vec<f64> = (0..tokens).map(|_| keyed::uniform(&mut rng)).collect();
        if self.scoring != Scoring::LladaMc {
            let masked = numbers.iter().map(|&number| number < place).collect();
            return Noised { masked, weights: vec![1.0; tokens] };
        }
        let (mut masked, mut weights) = (vec![false; tokens], vec![0.0; tokens]);
        for (number, block) in blocks.iter().enumerate() {
            // The shares of a text's blocks are spread over the range as those of its draws are.
            let share = (place + number as f64 / blocks.len() as f64).fract();
            let count = ((share * block.len() as f64) as usize + 1).min(block.len());
            let mut order: Vec<usize> = block.clone().collect();
            order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
            for &at in &order[..count] {
                masked[at] = true;
                weights[at] = block.len() as f64 / count as f64;
            }
        }
        Noised { masked, weights }
    }

    /// What a row's weighted cross-entropies are multiplied by.
    fn factor(&self, question: u64, draw: u32, masked: &[bool]) -> f64 {
        match self.scoring {
            Scoring::Exact | Scoring::LladaMc => 1.0,
            Scoring::PaperText => 1.0 / (self.place(question, draw) * masked.len() as f64),
            Scoring::PaperCode => 1.0 / masked.iter().filter(|&&masked| masked).count().max(1) as f64,
        }
    }

    /// The value of a candidate from its first draws; of [`Scoring::Exact`] there is one.
    pub fn value(&self, question: u64, draws: &[f64], tokens: usize) -> Value {
        let value = draws.iter().sum::<f64>() / draws.len() as f64;
        Value { value, error: self.error(question, draws), tokens }
    }

    /// The error of the mean of the first draws of a question: of one candidate, or of the difference of two. `None` for fewer than two
    /// draws. The draws are spread evenly, so what neighbours differ by is chance; what distant ones differ by is not.
    pub fn error(&self, question: u64, draws: &[f64]) -> Option<Error> {
        if self.scoring == Scoring::Exact {
            return Some(Error::default());
        }
        if draws.len() < 2 {
            return None;
        }
        let mut points: Vec<(f64, f64)> =
            (0..).zip(draws).map(|(draw, &value)| (self.place(question, draw), value)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let squares: Vec<f64> = points.windows(2).map(|pair| (pair[1].1 - pair[0].1).powi(2)).collect();
        let sum: f64 = squares.iter().sum();
        let standard = (sum / 2.0).sqrt() / squares.len() as f64;
        // Satterthwaite's degrees of freedom: a few large differences tell less of the error than many equal ones. Neighbouring
        // differences have a draw in common, which is in the factor.
        let fourths: f64 = squares.iter().map(|square| square * square).sum();
        let freedom = if fourths > 0.0 { (2.0 * sum * sum / fourths).max(2.0) } else { f64::INFINITY };
        Some(Error { standard, half_width: quantile(freedom) * standard })
    }
}

/// Student's quantile for a 95 % interval, by Cornish and Fisher's expansion.
fn quantile(freedom: f64) -> f64 {
    let z = 1.959_964_f64;
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
    ];
    terms.iter().zip(1..).fold(z, |sum, (term, power)| sum + term / freedom.powi(power))
}

pub(crate) struct Noised {
    pub masked: Vec<bool>,
    pub weights: Vec<f64>,
}

/// A row to be computed: a document with some of its measured tokens masked.
struct Row {
    document: usize,
    noised: Noised,
}

/// A draw, and the row that it is read from; `None` where nothing is masked.
struct Use {
    document: usize,
    row: Option<usize>,
    factor: f64,
}

impl Session {
    /// Whether the model has an exact likelihood: it reads from left to right, or its clean text does.
    pub fn is_exact(&self) -> bool {
        self.left_to_right() || self.blocks().is_some_and(|blocks| blocks.context == Context::Causal)
    }

    /// How candidates are measured where nothing else is said.
    pub fn scoring(&self) -> Scoring {
        if self.left_to_right() { Scoring::Exact } else { Scoring::LladaMc }
    }

    /// Errors if the model has no such value.
    pub fn check_scoring(&self, scoring: Scoring) -> Result<(), InferenceError> {
        let refuse = |found: &str, wanted| {
            let found = format!("{} with {}, {found}", name(scoring), self.folder().display());
            Err(InferenceError::unfit("scoring", found, wanted))
        };
        match scoring {
            Scoring::Exact if !self.is_exact() => refuse(
                "which sees both sides",
                "llada-mc, paper-text or paper-code: such a model has no exact likelihood",
            ),
            Scoring::LladaMc | Scoring::PaperText | Scoring::PaperCode if self.config().adapted.is_none() => {
                refuse("a base model without a mask token", "exact")
            }
            Scoring::PaperText | Scoring::PaperCode if self.blocks().is_some() => {
                refuse("which writes block by block", "llada-mc or exact: the paper has no blocks")
            }
            _ => Ok(()),
        }
    }

    /// Returns the values of some draws of each candidate of each question; [`Scoring::Exact`] has one. Calls `go_on` before every batch.
    /// Errors if the scoring or a candidate does not fit the model, or with the error of `go_on`.
    pub fn candidate_draws<E: From<InferenceError>>(
        &self,
        questions: &[Question],
        scorer: &Scorer,
        draws: Range<u32>,
        batching: Batching,
        go_on: &mut GoOn<E>,
    ) -> Result<Vec<Vec<Vec<f64>>>, E> {
        self.check_scoring(scorer.scoring)?;
        if scorer.scoring == Scoring::Exact {
            return self.exact(questions, batching, go_on);
        }
        if let Some(blocks) = self.blocks() {
            return self.by_blocks(questions, blocks, (scorer, draws), batching, go_on);
        }
        let documents: Vec<(u64, &Document)> =
            questions.iter().flat_map(|one| one.candidates.iter().map(move |document| (one.id, document))).collect();
        let (rows, uses) = self.rows(&documents, scorer, draws);
        let sums = self.weighted_sums(&documents, &rows, batching, go_on)?;
        let mut values: Vec<Vec<f64>> = vec![Vec::new(); documents.len()];
        for one in uses {
            values[one.document].push(one.row.map_or(0.0, |row| one.factor * sums[row]));
        }
        let mut values = values.into_iter();
        Ok(questions.iter().map(|one| values.by_ref().take(one.candidates.len()).collect()).collect())
    }

    /// Returns the value of each candidate of each question. Errors as [`Session::candidate_draws`].
    pub fn candidates<E: From<InferenceError>>(
        &self,
        questions: &[Question],
        scorer: &Scorer,
        batching: Batching,
        go_on: &mut GoOn<E>,
    ) -> Result<Vec<Vec<Value>>, E> {
        let draws = self.candidate_draws(questions, scorer, 0..scorer.draws, batching, go_on)?;
        let value = |question: &Question, draws: Vec<Vec<f64>>| {
            let tokens = question.candidates.iter().map(Document::measured);
            draws.iter().zip(tokens).map(|(draws, tokens)| scorer.value(question.id, draws, tokens)).collect()
        };
        Ok(questions.iter().zip(draws).map(|(question, draws)| value(question, draws)).collect())
    }

    /// The rows of all draws, each once: short candidates have fewer masks than draws.
    fn rows(&self, documents: &[(u64, &Document)], scorer: &Scorer, draws: Range<u32>) -> (Vec<Row>, Vec<Use>) {
        let (mut rows, mut uses, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        for (number, (question, document)) in documents.iter().enumerate() {
            let blocks = self.blocks_of(document);
            for draw in draws.clone() {
                let noised = scorer.noised(*question, draw, document.measured(), &blocks);
                let factor = scorer.factor(*question, draw, &noised.masked);
                let row = noised.masked.contains(&true).then(|| {
                    *known.entry((number, noised.masked.clone())).or_insert_with(|| {
                        rows.push(Row { document: number, noised });
                        rows.len() - 1
                    })
                });
                uses.push(Use { document: number, row, factor });
            }
        }
        (rows, uses)
    }

    /// The measured tokens of a document by the blocks in which they are, counted from the first measured one.
    pub(crate) fn blocks_of(&self, document: &Document) -> Vec<Range<usize>> {
        let (given, end) = (document.given, document.tokens.len());
        let size = self.blocks().map_or(end, |blocks| blocks.size).max(1);
        let mut blocks = Vec::new();
        let mut start = given;
        while start < end {
            let next = ((start / size + 1) * size).min(end);
            blocks.push(start - given..next - given);
            start = next;
        }
        blocks
    }

    fn weighted_sums<E: From<InferenceError>>(
        &self,
        documents: &[(u64, &Document)],
        rows: &[Row],
        batching: Batching,
        go_on: &mut GoOn<E>,
    ) -> Result<Vec<f64>, E> {
        let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: self.shift() });
        let (mut sums, mut done) = (vec![0.0; rows.len()], 0);
        for batch in batching.of(rows.len(), |row| documents[rows[row].document].1.tokens.len()) {
            go_on(Progress { done, of: rows.len() })?;
            let texts: Vec<Vec<u32>> =
                batch.iter().map(|&row| documents[rows[row].document].1.tokens.clone()).collect();
            let mut micro = MicroBatch::padded(&texts);
            micro.weights = vec![0.0; micro.rows * micro.length];
            for (at, &row) in batch.iter().enumerate() {
                let Row { document, noised } = &rows[row];
                let start = at * micro.length + documents[*document].1.given;
                micro.masked[start..start + noised.masked.len()].copy_from_slice(&noised.masked);
                micro.weights[start..start + noised.weights.len()].copy_from_slice(&noised.weights);
            }
            let found = self.model().nelbo_sums(&micro, &Pattern::Full, options).map_err(InferenceError::from)?;
            for (&row, found) in batch.iter().zip(&found.rows) {
                sums[row] = found.weighted;
            }
            done += batch.len();
        }
        Ok(sums)
    }
}

/// As it is spelled in files.
fn name(scoring: Scoring) -> &'static str {
    match scoring {
        Scoring::Exact => "exact",
        Scoring::LladaMc => "llada-mc",
        Scoring::PaperText => "paper-text",
        Scoring::PaperCode => "paper-code",
    }
}

#[cfg(test)]
#[path = "candidates_tests.rs"]
mod tests;
