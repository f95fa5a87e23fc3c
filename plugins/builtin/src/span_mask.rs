//! Span masking on noised batches.

use difflow_diffusion::keyed;
use difflow_plugin_sdk::batch::{Field, Kind};
use difflow_plugin_sdk::{Batch, BatchTransform, Error, config};

config! {
    /// Masks as many tokens of each row as the noiser did, in spans: the share, and with it the loss weight, stays what t says.
    pub struct SpanMask {
        /// Mean length of a span, in tokens; lengths are geometric.
        mean_length: f64 = 3.0, minimum 1.0;
    }
}

impl BatchTransform for SpanMask {
    fn accepts(&self, fields: &[Field]) -> Result<(), Error> {
        needs(fields, &[("masked", Kind::FlagLists), ("maskable", Kind::FlagLists)])
    }

    fn process(&mut self, seq: u64, seed: u64, mut batch: Batch) -> Result<Batch, Error> {
        let missing = || Error::incompatible("the batch has no columns `masked` and `maskable`");
        let maskable = batch.flag_lists("maskable").ok_or_else(missing)?.clone();
        let masked = batch.flag_lists_mut("masked").ok_or_else(missing)?;
        for (row, (masked, maskable)) in masked.iter_mut().zip(&maskable).enumerate() {
            let wanted = masked.iter().filter(|&&on| on).count();
            *masked = self.spans(maskable, wanted, seed, (seq, row as u64));
        }
        Ok(batch)
    }
}

impl SpanMask {
    fn spans(&self, maskable: &[bool], wanted: usize, seed: u64, (seq, row): (u64, u64)) -> Vec<bool> {
        let mut rng = keyed::rng(seed, "span", seq, row);
        let mut masked = vec![false; maskable.len()];
        let mut left = wanted.min(maskable.iter().filter(|&&on| on).count());
        while left > 0 {
            let free: Vec<usize> = (0..maskable.len()).filter(|&at| maskable[at] && !masked[at]).collect();
            let start = free[(keyed::uniform(&mut rng) * free.len() as f64) as usize];
            // Geometric with the mean wanted: 1 + floor(ln u / ln(1 − 1/mean)); a mean of 1 gives 1.
            let u = 1.0 - keyed::uniform(&mut rng);
            let length = 1 + (u.ln() / (1.0 - 1.0 / self.mean_length).ln()) as usize;
            for at in (start..maskable.len()).take(length).filter(|&at| maskable[at]) {
                if left > 0 && !masked[at] {
                    masked[at] = true;
                    left -= 1;
                }
            }
        }
        masked
    }
}

/// Whether the schema has all these columns.
pub fn needs(fields: &[Field], wanted: &[(&str, Kind)]) -> Result<(), Error> {
    let has = |(name, kind): &(&str, Kind)| fields.iter().any(|field| field.name == *name && field.kind == *kind);
    match wanted.iter().find(|column| !has(column)) {
        None => Ok(()),
        Some((name, kind)) => {
            Err(Error::incompatible(format!("it needs a column `{name}` of {kind:?}; put it on the node that has one")))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_plugin_sdk::Column;

    use super::*;

    fn batch() -> Batch {
        let row = |every: usize| (0..200).map(|i| i > 0 && i % every == 0).collect::<Vec<bool>>();
        let maskable = (0..200).map(|i| i > 0).collect::<Vec<bool>>();
        Batch {
            rows: 2,
            columns: vec![
                ("masked".into(), Column::FlagLists(vec![row(2), row(7)])),
                ("maskable".into(), Column::FlagLists(vec![maskable.clone(), maskable])),
            ],
        }
    }

    fn runs(row: &[bool]) -> usize {
        row.chunk_by(|a, b| a == b).filter(|run| run[0]).count()
    }

    #[test]
    fn the_number_of_masked_tokens_stays_and_they_come_in_runs() {
        let mut transform = SpanMask { mean_length: 5.0 };
        let (before, after) = (batch(), transform.process(3, 9, batch()).unwrap());
        let (before, after) = (before.flag_lists("masked").unwrap(), after.flag_lists("masked").unwrap());
        for (before, after) in before.iter().zip(after) {
            let count = |row: &[bool]| row.iter().filter(|&&on| on).count();
            assert_eq!(count(before), count(after));
            assert!(!after[0], "the anchor is never masked");
            assert!(runs(after) * 2 < runs(before), "{} runs of {}", runs(after), runs(before));
        }
    }

    #[test]
    fn a_batch_can_be_made_again_and_the_next_one_differs() {
        let mut transform = SpanMask { mean_length: 3.0 };
        let first = transform.process(3, 9, batch()).unwrap();
        assert_eq!(first, transform.process(3, 9, batch()).unwrap());
        assert_ne!(first, transform.process(4, 9, batch()).unwrap());
        assert_ne!(first, transform.process(3, 8, batch()).unwrap());
    }
}
