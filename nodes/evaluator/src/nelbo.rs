//! The bound on the negative log-likelihood (and, for a model that reads left to right, the likelihood itself), in nats per
//! maskable token, with its standard error.
//!
//! t of all (document, draw) pairs is stratified together, and a document's own draws are spread over the whole range, so
//! that few draws are enough. Masks and t depend on the seed alone: every checkpoint is asked the same questions.

use difflow_diffusion::{MIN_T, TimestepDraw, masking};
use difflow_model::{MicroBatch, Model, Objective, ObjectiveOptions, Pattern};
use difflow_plugin_host::{NoiseSchedule, PluginError};
use eyre::Result;

/// How documents are noised.
#[derive(Debug, Clone, Copy)]
pub struct Noise<'a> {
    /// α(t) and the weight of the loss.
    pub schedule: &'a NoiseSchedule,
    /// Key of t and of the masks.
    pub seed: u64,
    /// Times each document is noised.
    pub draws: usize,
}

/// A mean over tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Nats per token.
    pub value: f64,
    /// Standard error, documents being the independent units; `None` for a single document.
    pub stderr: Option<f64>,
}

/// Nats and tokens of one document.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    nats: f64,
    tokens: f64,
}

/// NELBO under full attention. `go_on` is asked before every batch of `rows`.
///
/// # Errors
/// When the model refuses a batch, or `go_on` fails.
pub fn nelbo(
    model: &Model,
    documents: &[Vec<u32>],
    noise: Noise<'_>,
    rows: usize,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Estimate> {
    let shift = model.config().adapted.as_ref().is_none_or(|adapted| adapted.shift);
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift });
    let mut totals = vec![Total::default(); documents.len()];
    let pairs = documents.len() * noise.draws;
    for from in (0..pairs).step_by(rows) {
        go_on()?;
        let to = (from + rows).min(pairs);
        let sums = model.nelbo_sums(&noised(documents, from..to, noise)?, &Pattern::Full, options)?;
        for (pair, row) in (from..to).zip(&sums.rows) {
            let total = &mut totals[pair % documents.len()];
            total.nats += row.weighted;
            total.tokens += row.maskable as f64;
        }
    }
    Ok(estimate(&totals))
}

/// Next-token loss of the same tokens.
///
/// # Errors
/// As [`nelbo`].
pub fn ar_loss(
    model: &Model,
    documents: &[Vec<u32>],
    rows: usize,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Estimate> {
    let mut totals = Vec::with_capacity(documents.len());
    for chunk in documents.chunks(rows) {
        go_on()?;
        let sums = model.ar_sums(&MicroBatch::padded(chunk))?;
        totals.extend(sums.rows.iter().map(|row| Total { nats: row.unweighted, tokens: row.positions as f64 }));
    }
    Ok(estimate(&totals))
}

/// Pairs `draw · documents + document`, each a document alone in its row.
fn noised(documents: &[Vec<u32>], pairs: std::ops::Range<usize>, noise: Noise) -> Result<MicroBatch, PluginError> {
    let all = (documents.len() * noise.draws) as u64;
    let rows: Vec<Vec<u32>> = pairs.clone().map(|pair| documents[pair % documents.len()].clone()).collect();
    let mut batch = MicroBatch::padded(&rows);
    let t: Vec<f64> =
        pairs.clone().map(|pair| TimestepDraw::Stratified.draw(noise.seed, 0, pair as u64, all, MIN_T)).collect();
    let alpha = noise.schedule.alpha(&t)?;
    batch.weights = noise.schedule.weight(&t)?;
    for (row, pair) in pairs.enumerate() {
        let span = row * batch.length..(row + 1) * batch.length;
        let masked = masking::masked_positions(&batch.maskable[span.clone()], alpha[row], noise.seed, pair as u64);
        batch.masked[span].copy_from_slice(&masked);
    }
    Ok(batch)
}

/// Ratio estimator: total nats over total tokens; the error from the spread of the documents' residuals.
fn estimate(totals: &[Total]) -> Estimate {
    let tokens: f64 = totals.iter().map(|total| total.tokens).sum();
    let value = totals.iter().map(|total| total.nats).sum::<f64>() / tokens;
    let documents = totals.len() as f64;
    let squares: f64 = totals.iter().map(|total| (total.nats - value * total.tokens).powi(2)).sum();
    let stderr = (totals.len() > 1).then(|| (squares * documents / (documents - 1.0)).sqrt() / tokens);
    Estimate { value, stderr }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::tiny;

    fn noise(draws: usize) -> Noise<'static> {
        static LINEAR: LazyLock<NoiseSchedule> = LazyLock::new(|| NoiseSchedule::open("linear", "{}").unwrap());
        Noise { schedule: &LINEAR, seed: 5, draws }
    }

    fn documents(count: usize) -> Vec<Vec<u32>> {
        (0..count)
            .map(|d| (0..8 + d % 5).map(|i| if i == 0 { 1 } else { 3 + (i * 7 + d) as u32 % 30 }).collect())
            .collect()
    }

    fn score(rows: usize) -> Estimate {
        nelbo(&tiny::model(true), &documents(6), noise(3), rows, &mut || Ok(())).unwrap()
    }

    /// A score that depended on the batch size could not be compared between machines.
    #[test]
    fn the_batch_size_does_not_change_the_score() {
        let (one, seven) = (score(1), score(7));
        assert!((one.value - seven.value).abs() < 1e-5, "{one:?} {seven:?}");
        assert_eq!(score(7), seven);
    }

    /// A model that knows nothing gives every token log V nats, and the weights w(t) must average out to it.
    #[test]
    fn a_model_that_knows_nothing_scores_the_logarithm_of_its_vocabulary() {
        let uniform = tiny::uniform();
        let wanted = f64::ln(uniform.config().vocab_size as f64);
        let found = nelbo(&uniform, &documents(40), noise(50), 64, &mut || Ok(())).unwrap();
        assert!((found.value - wanted).abs() < 4.0 * found.stderr.unwrap(), "{found:?}, wanted {wanted}");
        assert!(found.stderr.unwrap() < 0.05 * wanted);
        let ar = ar_loss(&uniform, &documents(40), 16, &mut || Ok(())).unwrap();
        assert!((ar.value - wanted).abs() < 1e-4, "{ar:?}, wanted {wanted}");
    }

    #[test]
    fn a_documents_draws_are_spread_over_the_range_of_t() {
        let (documents, noise) = (documents(4), noise(4));
        let batch = noised(&documents, 0..16, noise).unwrap();
        for document in 0..4 {
            let mut ts: Vec<f64> = (0..4).map(|draw| 1.0 / batch.weights[draw * 4 + document]).collect();
            ts.sort_by(f64::total_cmp);
            assert!(ts.windows(2).all(|pair| (pair[1] - pair[0] - 0.25 * (1.0 - MIN_T)).abs() < 1e-9), "{ts:?}");
        }
        assert!((0..16).all(|row| !batch.masked[row * batch.length]), "the anchor is never masked");
    }

    #[test]
    fn the_standard_error_is_that_of_documents() {
        let totals = [(2.0, 1.0), (4.0, 1.0), (6.0, 1.0)].map(|(nats, tokens)| Total { nats, tokens });
        let found = estimate(&totals);
        assert_eq!(found.value, 4.0);
        assert!((found.stderr.unwrap() - 2.0 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(estimate(&totals[..1]).stderr, None);
    }

    #[test]
    fn a_stop_is_noticed_between_batches() {
        let mut asked = 0;
        let result = nelbo(&tiny::model(true), &documents(6), noise(3), 4, &mut || {
            asked += 1;
            if asked == 3 { Err(crate::inbox::Stopped.into()) } else { Ok(()) }
        });
        assert!(result.unwrap_err().is::<crate::inbox::Stopped>());
        assert_eq!(asked, 3);
    }
}
