//! How probable documents are, in nats: exact for a model that reads from left to right, or the diffusion model's
//! bound.
//!
//! The bound is −log p(document | its length) ≤ E_t[w(t) · Σ over masked tokens of −log p(token | what is not
//! masked)]. It is the same for every noise schedule (arXiv 2406.07524), so it is always computed with the linear
//! one, α(t) = 1 − t and w(t) = 1/t, whatever the model was trained with: a schedule that clips t, or a weight from a
//! plug-in, changes what is learned, not what is measured.
//!
//! t is stratified over all (document, draw) pairs together, and the draws of one document are spread over the whole
//! range, so few draws are enough. Masks and t depend on the seed alone: every model is asked the same questions.

use difflow_diffusion::{MIN_T, TimestepDraw, masking};
use difflow_model::{Blocks, MicroBatch, Objective, ObjectiveOptions, Pattern};

use crate::error::InferenceError;
use crate::progress::{GoOn, Progress};
use crate::session::Session;

/// A document as token ids, alone in its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The anchor (BOS or EOS) first.
    pub tokens: Vec<u32>,
    /// Number of tokens at its beginning that are given; the rest is measured. At least 1, the anchor.
    pub given: usize,
}

impl Document {
    /// Returns a document of which only the anchor is given.
    pub fn new(tokens: Vec<u32>) -> Self {
        Self { tokens, given: 1 }
    }

    /// Number of tokens that are measured.
    pub fn measured(&self) -> usize {
        self.tokens.len() - self.given
    }
}

/// How documents are noised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    /// Key of t and of the masks.
    pub seed: u64,
    /// How many times each document is noised; at least 1.
    pub draws: usize,
}

/// Which rows share a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// This many, in the order in which they come.
    Rows(usize),
    /// Rows of similar length, longest first, with this many tokens in all, padding included. So there is little
    /// padding.
    Tokens(usize),
}

/// Nats and tokens of one document.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Nats {
    /// −ln p(what is measured | what is given), or the bound on it.
    pub nats: f64,
    /// Number of tokens measured.
    pub tokens: u64,
}

/// A mean over the tokens of several documents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Nats per token.
    pub value: f64,
    /// Standard error, with documents as the independent units; `None` for a single document.
    pub stderr: Option<f64>,
    /// Number of documents.
    pub documents: usize,
    /// Number of tokens in all of them.
    pub tokens: u64,
}

impl Estimate {
    /// Returns the ratio estimate, total nats over total tokens, with the error from the spread of the documents'
    /// residuals.
    pub fn of(documents: &[Nats]) -> Self {
        let tokens: u64 = documents.iter().map(|one| one.tokens).sum();
        let value = documents.iter().map(|one| one.nats).sum::<f64>() / tokens as f64;
        let count = documents.len() as f64;
        let squares: f64 = documents.iter().map(|one| (one.nats - value * one.tokens as f64).powi(2)).sum();
        let stderr = (documents.len() > 1).then(|| (squares * count / (count - 1.0)).sqrt() / tokens as f64);
        Self { value, stderr, documents: documents.len(), tokens }
    }

    /// Returns the nats per token with the cost of the lengths added: the figure to compare with the loss of a model
    /// that reads from left to right.
    ///
    /// A diffusion model is given the length of a document (its row has that many positions); a model that reads from
    /// left to right has to predict where it ends. `length_entropy` is what the length of a document costs under the
    /// lengths' distribution in training, in nats.
    pub fn with_length(&self, length_entropy: f64) -> f64 {
        self.value + length_entropy * self.documents as f64 / self.tokens as f64
    }
}

impl Session {
    /// Returns the diffusion bound of each document: under full attention or, for a block model, Σ over its blocks of the
    /// bound on −log p(block | the blocks before it), with the blocks that its checkpoint records. Errors if the model has
    /// no mask token, a document does not fit it, or with the error of `go_on`.
    pub fn nelbo<E: From<InferenceError>>(
        &self,
        documents: &[Document],
        noise: Noise,
        batching: Batching,
        go_on: &mut GoOn<E>,
    ) -> Result<Vec<Nats>, E> {
        if self.config().adapted.is_none() {
            let found = format!("{}, a base model without a mask token", self.folder().display());
            return Err(InferenceError::unfit("diffusion bound", found, "a diffusion model, or the AR loss").into());
        }
        let blocks = self.config().adapted.as_ref().and_then(|adapted| adapted.blocks);
        let full = Objective::Diffusion { shift: self.shift() };
        // The clean text costs nothing, so nothing is asked of it here.
        let objective = blocks.map_or(full, |blocks| Objective::Block(Blocks { ar_weight: 0.0, ..blocks }));
        let (options, size) = (ObjectiveOptions::recommended(objective), blocks.map(|blocks| blocks.size));
        let mut all = vec![Nats::default(); documents.len()];
        let pairs = documents.len() * noise.draws.max(1);
        let length = |pair: usize| documents[pair % documents.len()].tokens.len();
        let mut done = 0;
        for batch in batching.of(pairs, length) {
            go_on(Progress { done, of: pairs })?;
            let noised = noised(documents, &batch, noise, size);
            let sums = self.model().nelbo_sums(&noised, &Pattern::Full, options).map_err(InferenceError::from)?;
            for (&pair, row) in batch.iter().zip(&sums.rows) {
                let one = &mut all[pair % documents.len()];
                one.nats += row.weighted;
                one.tokens += row.maskable;
            }
            done += batch.len();
        }
        for one in &mut all {
            one.nats /= noise.draws.max(1) as f64;
            one.tokens /= noise.draws.max(1) as u64;
        }
        Ok(all)
    }

    /// Returns the next-token loss of each document under causal attention. Errors if a document does not fit the
    /// model, or with the error of `go_on`.
    pub fn ar_loss<E: From<InferenceError>>(
        &self,
        documents: &[Document],
        batching: Batching,
        go_on: &mut GoOn<E>,
    ) -> Result<Vec<Nats>, E> {
        let whole = documents.iter().map(|document| document.tokens.clone());
        // What is given costs nats that are not asked for.
        let given = documents.iter().map(|document| document.tokens[..document.given].to_vec());
        let rows: Vec<Vec<u32>> = whole.chain(given.filter(|tokens| tokens.len() > 1)).collect();
        let mut sums = vec![Nats::default(); rows.len()];
        let mut done = 0;
        for batch in batching.of(rows.len(), |row| rows[row].len()) {
            go_on(Progress { done, of: rows.len() })?;
            let padded: Vec<Vec<u32>> = batch.iter().map(|&row| rows[row].clone()).collect();
            let found = self.model().ar_sums(&MicroBatch::padded(&padded)).map_err(InferenceError::from)?;
            for (&row, found) in batch.iter().zip(&found.rows) {
                sums[row] = Nats { nats: found.unweighted, tokens: found.positions };
            }
            done += batch.len();
        }
        let mut given = sums.split_off(documents.len()).into_iter();
        for (sum, document) in sums.iter_mut().zip(documents) {
            if document.given > 1 {
                let less = given.next().unwrap_or_default();
                *sum = Nats { nats: sum.nats - less.nats, tokens: sum.tokens - less.tokens };
            }
        }
        Ok(sums)
    }

    /// Returns the perplexity of token sequences read from left to right (the anchor comes first and is not predicted),
    /// `rows` of them per forward; NaN if there is nothing to predict. Errors if a sequence does not fit the model.
    pub fn perplexity_of(&self, sequences: &[Vec<u32>], rows: usize) -> Result<f64, InferenceError> {
        Ok(self.model().perplexity(sequences, rows)?)
    }
}

impl Batching {
    /// Returns the row numbers of each batch.
    pub(crate) fn of(self, count: usize, length: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..count).collect();
        match self {
            Self::Rows(rows) => order.chunks(rows.max(1)).map(<[usize]>::to_vec).collect(),
            Self::Tokens(tokens) => {
                order.sort_by_key(|&row| std::cmp::Reverse(length(row)));
                let mut batches: Vec<Vec<usize>> = Vec::new();
                for row in order {
                    match batches.last_mut() {
                        Some(batch) if (batch.len() + 1) * length(batch[0]) <= tokens => batch.push(row),
                        _ => batches.push(vec![row]),
                    }
                }
                batches
            }
        }
    }
}

/// Pairs `draw · documents + document`, each a document alone in its row. With a block size, each block has a t of its own.
fn noised(documents: &[Document], pairs: &[usize], noise: Noise, size: Option<usize>) -> MicroBatch {
    let all = (documents.len() * noise.draws.max(1)) as u64;
    let of = |pair: usize| &documents[pair % documents.len()];
    let rows: Vec<Vec<u32>> = pairs.iter().map(|&pair| of(pair).tokens.clone()).collect();
    let mut batch = MicroBatch::padded(&rows);
    batch.weights = vec![0.0; batch.rows * batch.length];
    for (row, &pair) in pairs.iter().enumerate() {
        let length = of(pair).tokens.len();
        let places = row * batch.length..row * batch.length + length;
        batch.maskable[places.start..places.start + of(pair).given].fill(false);
        let unit = TimestepDraw::Stratified.draw(noise.seed, 0, pair as u64, all, 0.0);
        let blocks = length.div_ceil(size.unwrap_or(length).max(1));
        // The draws of a block are spread over the range like those of a document, and so are the blocks of a draw.
        let time = |at: usize| {
            let unit = unit + (at / size.unwrap_or(length).max(1)) as f64 / blocks as f64;
            MIN_T + (1.0 - MIN_T) * unit.fract()
        };
        let times: Vec<f64> = (0..length).map(time).collect();
        let alphas = times.iter().map(|t| 1.0 - t);
        let masked = masking::masked_where(&batch.maskable[places.clone()], alphas, noise.seed, pair as u64);
        batch.masked[places.clone()].copy_from_slice(&masked);
        batch.weights[places].iter_mut().zip(times).for_each(|(weight, t)| *weight = 1.0 / t);
    }
    batch
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_model::Context;

    use super::*;
    use crate::tiny;

    const NOISE: Noise = Noise { seed: 5, draws: 3 };

    fn documents(count: usize) -> Vec<Document> {
        let token = |d: usize, i: usize| if i == 0 { 1 } else { 3 + (i * 7 + d) as u32 % 30 };
        (0..count).map(|d| Document::new((0..8 + d % 5).map(|i| token(d, i)).collect())).collect()
    }

    fn nelbo(session: &Session, documents: &[Document], noise: Noise, batching: Batching) -> Vec<Nats> {
        session.nelbo(documents, noise, batching, &mut |_| Ok::<(), InferenceError>(())).unwrap()
    }

    fn ar_loss(session: &Session, documents: &[Document]) -> Vec<Nats> {
        session.ar_loss(documents, Batching::Rows(16), &mut |_| Ok::<(), InferenceError>(())).unwrap()
    }

    /// A score that depended on the batches could not be compared between machines.
    #[test]
    fn batches_do_not_change_the_score() {
        let session = tiny::session(true, 0.3);
        let score = |batching| Estimate::of(&nelbo(&session, &documents(6), NOISE, batching));
        let one = score(Batching::Rows(1));
        for batching in [Batching::Rows(7), Batching::Tokens(40)] {
            let other = score(batching);
            assert!((one.value - other.value).abs() < 1e-5 && one.tokens == other.tokens, "{one:?} {other:?}");
            assert_eq!(score(batching), other);
        }
    }

    /// A model that knows nothing gives every token log V nats, and the weights w(t) must average out to it.
    #[test]
    fn a_model_that_knows_nothing_scores_the_logarithm_of_its_vocabulary() {
        let uniform = tiny::session(true, 1e-6);
        let wanted = f64::ln(uniform.config().vocab_size as f64);
        let noise = Noise { draws: 50, ..NOISE };
        let found = Estimate::of(&nelbo(&uniform, &documents(40), noise, Batching::Rows(64)));
        assert!((found.value - wanted).abs() < 4.0 * found.stderr.unwrap(), "{found:?}, wanted {wanted}");
        assert!(found.stderr.unwrap() < 0.05 * wanted);
        let ar = Estimate::of(&ar_loss(&uniform, &documents(40)));
        assert!((ar.value - wanted).abs() < 1e-4, "{ar:?}, wanted {wanted}");
        assert_eq!(ar.tokens, found.tokens);
    }

    /// The evaluator weighed by the run's own schedule: with `clipped`, whose t never comes near 0 or 1, its number was no bound, and
    /// KEEP_BEST ranked by it.
    #[test]
    fn the_bound_does_not_depend_on_the_schedule_of_the_training_noise() {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_model(dir.path(), true, 0.3);
        let score = |schedule: &str| {
            tiny::write_origin(dir.path(), None, |origin| origin.noise_schedule.name = schedule.into());
            nelbo(&Session::open(dir.path(), &tiny::opening()).unwrap(), &documents(6), NOISE, Batching::Rows(4))
        };
        assert_eq!(score("clipped"), score("linear"));
        // Σ w(t) · masked over Σ tokens is 1 in expectation for a bound, and was 1 in no sense with clipped weights.
        let documents: Vec<Document> = (0..8).map(|_| Document::new(vec![1; 60])).collect();
        let noise = Noise { seed: 1, draws: 100 };
        let batch = noised(&documents, &(0..800).collect::<Vec<_>>(), noise, None);
        let weight = |row: usize| {
            let places = row * batch.length..(row + 1) * batch.length;
            batch.weights[places.start] * batch.masked[places].iter().filter(|masked| **masked).count() as f64
        };
        let mean = (0..800).map(weight).sum::<f64>() / (800.0 * 59.0);
        assert!((mean - 1.0).abs() < 0.04, "{mean}");
    }

    /// All pairs of tokens behind a block that is given: the orders in which a block of two can be revealed are few enough to be added up.
    /// The bound is the mean of what the orders cost; what it bounds is the cost of their mean, a distribution over the pairs.
    #[test]
    fn the_bound_of_a_block_model_is_its_exact_value_and_above_what_it_bounds() {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_model(dir.path(), true, 0.3);
        let blocks = Blocks { size: 2, context: Context::Causal, shift: false, ar_weight: 0.5 };
        tiny::mark(dir.path(), Objective::Block(blocks));
        let session = Session::open(dir.path(), &tiny::opening()).unwrap();
        let options = ObjectiveOptions::recommended(Objective::Block(Blocks { ar_weight: 0.0, ..blocks }));
        let pairs: Vec<[u32; 4]> = (0..38 * 38).map(|pair| [1, 5, pair / 38, pair % 38]).collect();
        // −ln p of the token at `of` of each, with the tokens at `masked` masked.
        let nats = |masked: &[usize], of: usize| -> Vec<f64> {
            let mut batch = MicroBatch::clean(pairs.len(), 4, pairs.concat());
            batch.masked = (0..pairs.len() * 4).map(|at| masked.contains(&(at % 4))).collect();
            batch.weights = (0..pairs.len() * 4).map(|at| f64::from(u8::from(at % 4 == of))).collect();
            let sums = session.model().nelbo_sums(&batch, &Pattern::Full, options).unwrap();
            sums.rows.iter().map(|row| row.weighted).collect()
        };
        let (first, second) = (nats(&[2, 3], 2), nats(&[2, 3], 3));
        let (first_after, second_after) = (nats(&[2], 2), nats(&[3], 3));
        let mut mass = 0.0;
        for pair in 0..pairs.len() {
            let orders = [first[pair] + second_after[pair], second[pair] + first_after[pair]];
            let exact = -(0.5 * (-orders[0]).exp() + 0.5 * (-orders[1]).exp()).ln();
            let bound = 0.5 * (orders[0] + orders[1]);
            mass += (-exact).exp();
            assert!(bound >= exact - 1e-9);
            if pair % 500 == 77 {
                let document = Document { tokens: pairs[pair].to_vec(), given: 2 };
                let found = nelbo(&session, &[document], Noise { draws: 40_000, ..NOISE }, Batching::Rows(4000))[0];
                let gap = (found.nats - bound).abs();
                assert!(gap < 0.03 * bound && found.tokens == 2, "{found:?}: bound {bound}, exact {exact}");
            }
        }
        assert!((mass - 1.0).abs() < 1e-3, "{mass}");
    }

    #[test]
    fn a_documents_draws_are_spread_over_the_range_of_t() {
        let (documents, noise) = (documents(4), Noise { seed: 5, draws: 4 });
        let batch = noised(&documents, &(0..16).collect::<Vec<_>>(), noise, None);
        for document in 0..4 {
            let mut ts: Vec<f64> =
                (0..4).map(|draw| 1.0 / batch.weights[(draw * 4 + document) * batch.length]).collect();
            ts.sort_by(f64::total_cmp);
            assert!(ts.windows(2).all(|pair| (pair[1] - pair[0] - 0.25 * (1.0 - MIN_T)).abs() < 1e-9), "{ts:?}");
        }
        assert!((0..16).all(|row| !batch.masked[row * batch.length]), "the anchor is never masked");
    }

    /// −ln p(b | a) = −ln p(a b) + ln p(a), and only b is masked in the bound.
    #[test]
    fn what_is_given_is_not_measured() {
        let base = tiny::session(false, 0.3);
        let whole = Document::new(vec![1, 5, 6, 7, 8, 9]);
        let (start, end) = (Document::new(vec![1, 5, 6]), Document { given: 3, ..whole.clone() });
        let found = ar_loss(&base, &[whole.clone(), start, end.clone()]);
        assert!((found[2].nats - (found[0].nats - found[1].nats)).abs() < 1e-4, "{found:?}");
        assert_eq!(found.iter().map(|one| one.tokens).collect::<Vec<_>>(), [5, 2, 3]);
        let batch = noised(&[end], &[0, 0, 0], NOISE, None);
        assert!((0..3).all(|row| batch.maskable[row * 6..row * 6 + 6] == [false, false, false, true, true, true]));
        assert!((0..3).all(|row| batch.masked[row * 6..row * 6 + 3] == [false; 3]));
    }

    #[test]
    fn the_estimate_is_the_ratio_of_sums_with_documents_as_units() {
        let of = |nats: f64, tokens: u64| Nats { nats, tokens };
        let found = Estimate::of(&[of(2.0, 1), of(4.0, 3)]);
        assert_eq!((found.value, found.tokens), (1.5, 4));
        // Residuals ±0.5: √(2 · (0.25 + 0.25)) / 4.
        assert!((found.stderr.unwrap() - 0.25).abs() < 1e-12);
        assert_eq!(Estimate::of(&[of(2.0, 1)]).stderr, None);
        let found = Estimate::of(&[of(2.0, 1), of(4.0, 1), of(6.0, 1)]);
        assert!((found.value - 4.0).abs() < 1e-12 && (found.stderr.unwrap() - 2.0 / 3f64.sqrt()).abs() < 1e-12);
    }

    /// The bound is given the length of a document and the AR loss is not: two documents of one token each, whose length costs ln 2, have
    /// ln 2 more a token.
    #[test]
    fn the_length_of_a_document_costs_its_entropy() {
        let estimate = Estimate::of(&[Nats { nats: 1.0, tokens: 10 }, Nats { nats: 1.0, tokens: 30 }]);
        assert!((estimate.with_length(2f64.ln()) - (2.0 + 2.0 * 2f64.ln()) / 40.0).abs() < 1e-12);
    }

    #[test]
    fn batches_hold_every_row_once_and_stay_small() {
        let lengths: Vec<usize> = (1..200).map(|i| i * 37 % 500 + 2).collect();
        for batching in [Batching::Tokens(16_384), Batching::Rows(7)] {
            let batches = batching.of(lengths.len(), |row| lengths[row]);
            let mut all: Vec<usize> = batches.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..199).collect::<Vec<_>>());
            assert!(batches.iter().all(|batch| batch.len() * lengths[batch[0]] <= 16_384));
        }
    }

    #[test]
    fn a_base_model_has_no_bound() {
        let base = tiny::session(false, 0.3);
        let result = base.nelbo(&documents(1), NOISE, Batching::Rows(1), &mut |_| Ok::<(), InferenceError>(()));
        assert!(result.unwrap_err().to_string().contains("base model"));
    }

    #[test]
    fn a_stop_is_noticed_between_batches() {
        let mut asked = 0;
        let result = tiny::session(true, 0.3).nelbo(&documents(6), NOISE, Batching::Rows(4), &mut |_| {
            asked += 1;
            if asked == 3 { Err(InferenceError::unfit("stop", "", "")) } else { Ok(()) }
        });
        assert!(result.unwrap_err().to_string().contains("stop"));
        assert_eq!(asked, 3);
    }
}
