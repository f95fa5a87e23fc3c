//! The draw of t, one per sequence.

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
        let unit = match self {
            Self::Stratified => {
                let offset = keyed::uniform(&mut keyed::rng(seed, "t", step, 0));
                (offset + row as f64 / rows as f64).fract()
            }
            Self::Uniform => keyed::uniform(&mut keyed::rng(seed, "t", step, row + 1)),
        };
        min_t + (1.0 - min_t) * unit
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
