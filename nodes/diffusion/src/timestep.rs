//! The draw of t, one per sequence or one per block.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::keyed;

/// How t is drawn for the rows of a global batch.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimestepDraw {
    /// Low discrepancy over the global batch: row i of n gets (u + i/n) mod 1 with one u per step. Every row alone is
    /// uniform, together they cover the range evenly, so the loss has far less variance. Preset `recommended`.
    #[default]
    Stratified,
    /// Independent and uniform for each row. Preset `parity`.
    Uniform,
}

impl TimestepDraw {
    /// t in [`min_t`, 1) of row `row` of `rows` in the global batch of optimizer step `step`.
    pub fn draw(self, seed: u64, step: u64, row: u64, rows: u64, min_t: f64) -> f64 {
        self.draw_blocks(seed, step, (row, rows), 1, min_t..1.0)[0]
    }

    /// t in `range` of each of the `blocks` of row `row` of `rows` in the global batch of optimizer step `step`.
    ///
    /// Stratified over all blocks of the batch: those of one row are spread evenly over the range, in a drawn order, and rows with
    /// equally many lie between each other, so n rows of m blocks have one t in each of n·m strata. What a row has does not depend on
    /// how many blocks the others have, so micro-batches can be made apart.
    pub fn draw_blocks(
        self,
        seed: u64,
        step: u64,
        (row, rows): (u64, u64),
        blocks: usize,
        range: Range<f64>,
    ) -> Vec<f64> {
        let scaled = |unit: f64| range.start + (range.end - range.start) * unit;
        match self {
            Self::Stratified => {
                let offset = keyed::uniform(&mut keyed::rng(seed, "t", step, 0));
                let order = keyed::permutation(blocks, &mut keyed::rng(seed, "t-order", step, row));
                let within = row as f64 / rows as f64;
                let unit = |place: u32| (offset + (f64::from(place) + within) / blocks as f64).fract();
                order.into_iter().map(|place| scaled(unit(place))).collect()
            }
            Self::Uniform => {
                let mut rng = keyed::rng(seed, "t", step, row + 1);
                (0..blocks).map(|_| scaled(keyed::uniform(&mut rng))).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MIN_T;

    #[test]
    fn stratified_rows_fall_one_into_each_stratum() {
        for step in 0..20 {
            let rows = 64;
            let mut strata = vec![0; rows as usize];
            for row in 0..rows {
                let t = TimestepDraw::Stratified.draw(3, step, row, rows, 0.0);
                strata[(t * rows as f64) as usize] += 1;
            }
            // The common offset shifts all rows alike, so each of n equal strata holds exactly one (up to rounding at its edge).
            assert!(strata.iter().filter(|&&n| n == 1).count() >= 62, "step {step}: {strata:?}");
        }
    }

    /// A draw of its own for each row would leave some strata empty and others full.
    #[test]
    fn stratified_blocks_of_all_rows_fall_one_into_each_stratum() {
        let (rows, blocks) = (8, 16);
        for step in 0..10 {
            let mut strata = vec![0; 8 * blocks];
            for row in 0..rows {
                let drawn = TimestepDraw::Stratified.draw_blocks(3, step, (row, rows), blocks, 0.45..0.95);
                drawn.iter().for_each(|t| strata[((t - 0.45) / 0.5 * 128.0) as usize] += 1);
            }
            assert!(strata.iter().filter(|&&n| n == 1).count() >= 126, "step {step}: {strata:?}");
        }
        let first = |step| TimestepDraw::Stratified.draw_blocks(3, step, (0, rows), blocks, 0.0..1.0);
        let rises = first(0).windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!(rises < 14, "t does not follow the position");
        let mean = (0..4000).map(|step| first(step)[5]).sum::<f64>() / 4000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[test]
    fn a_row_alone_is_uniform_over_steps() {
        for draw in [TimestepDraw::Stratified, TimestepDraw::Uniform] {
            let n = 20_000;
            let values: Vec<f64> = (0..n).map(|step| draw.draw(1, step, 5, 16, MIN_T)).collect();
            let mean = values.iter().sum::<f64>() / n as f64;
            let variance = values.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / n as f64;
            assert!((mean - 0.5005).abs() < 0.01, "{draw:?} mean {mean}");
            assert!((variance - 1.0 / 12.0).abs() < 0.005, "{draw:?} variance {variance}");
            assert!(values.iter().all(|&t| (MIN_T..=1.0).contains(&t)));
        }
    }
}
