//! Rotary position embedding: the frequencies of each scaling, and the tables of cosines and sines.
//!
//! Formulas: RoPE (arXiv 2104.09864), linear and dynamic NTK scaling, YaRN (arXiv 2309.00071), LongRoPE (arXiv
//! 2402.13753), Llama 3.1's smoothed scaling. Conventions are those of `transformers`, so that weights mean the same.

use std::f64::consts::PI;

/// How the frequencies are changed for contexts longer than the model was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Positions are divided by `factor`.
    Linear { factor: f64 },
    /// The base grows with the sequence once it is longer than `original` positions.
    Dynamic { factor: f64, original: usize },
    /// Low frequencies are divided by `factor`, high ones kept, between them a ramp (Llama 3.1).
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original: usize },
    /// Interpolation by parts with a temperature on the attention (`attention_factor` multiplies cosines and sines).
    Yarn { factor: f64, beta_fast: f64, beta_slow: f64, original: usize, attention_factor: f64, truncate: bool },
    /// Each frequency is divided by a factor of its own, by another one in sequences longer than `original`.
    Long { short: Vec<f64>, long: Vec<f64>, original: usize, attention_factor: f64 },
}

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies (`rope_theta`).
    pub theta: f64,
    /// The first so many dimensions of a head are turned, an even number; the others stay as they are.
    pub size: usize,
    /// `None` for the plain embedding.
    pub scaling: Option<RopeScaling>,
}

impl Rope {
    /// The `size / 2` angular frequencies for a sequence of `length` positions, which dynamic and long scaling go by.
    pub fn frequencies(&self, length: usize) -> Vec<f64> {
        let size = self.size;
        let plain =
            |theta: f64| -> Vec<f64> { (0..size / 2).map(|i| theta.powf(-(2.0 * i as f64) / size as f64)).collect() };
        match &self.scaling {
            None => plain(self.theta),
            &Some(RopeScaling::Linear { factor }) => plain(self.theta).iter().map(|f| f / factor).collect(),
            &Some(RopeScaling::Dynamic { factor, original }) => {
                let grown = length.max(original) as f64 / original as f64;
                let base = factor * grown - (factor - 1.0);
                plain(self.theta * base.powf(size as f64 / (size as f64 - 2.0)))
            }
            &Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original }) => plain(self.theta)
                .iter()
                .map(|&f| {
                    let turns = original as f64 * f / (2.0 * PI);
                    let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let smooth = smooth.clamp(0.0, 1.0);
                    (1.0 - smooth) * f / factor + smooth * f
                })
                .collect(),
            &Some(RopeScaling::Yarn { factor, beta_fast, beta_slow, original, truncate, .. }) => {
                let dim = size as f64;
                // The dimension that makes `rotations` turns over the original context.
                let correction =
                    |rotations: f64| dim * (original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (correction(beta_fast), correction(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                plain(self.theta)
                    .iter()
                    .enumerate()
                    .map(|(i, &f)| {
                        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        f / factor * ramp + f * (1.0 - ramp)
                    })
                    .collect()
            }
            Some(RopeScaling::Long { short, long, original, .. }) => {
                let factors = if length > *original { long } else { short };
                plain(self.theta).iter().zip(factors).map(|(f, factor)| f / factor).collect()
            }
        }
    }

    /// The length that stands for `length` wherever frequencies go by it: sequences with the same one have the same frequencies, and
    /// tables made for it have a row for each of their positions. `None` where frequencies do not go by the length.
    pub(crate) fn length_class(&self, length: usize) -> Option<usize> {
        match &self.scaling {
            Some(RopeScaling::Dynamic { original, .. }) => Some(length.max(*original)),
            Some(RopeScaling::Long { original, .. }) if length > *original => Some(length.next_power_of_two()),
            Some(RopeScaling::Long { original, .. }) => Some(*original),
            _ => None,
        }
    }

    /// Cosines and sines, each `[length, size / 2]` row-major fp32, for positions `0..length`.
    pub fn tables(&self, length: usize) -> (Vec<f32>, Vec<f32>) {
        let factor = match self.scaling {
            Some(RopeScaling::Yarn { attention_factor, .. } | RopeScaling::Long { attention_factor, .. }) => {
                attention_factor
            }
            _ => 1.0,
        };
        let frequencies = self.frequencies(length);
        let mut cos = Vec::with_capacity(length * frequencies.len());
        let mut sin = Vec::with_capacity(length * frequencies.len());
        for position in 0..length {
            for &frequency in &frequencies {
                // The angle is rounded to fp32 first, as `transformers` does: pretrained weights expect that rounding.
                let angle = f64::from(position as f32 * frequency as f32);
                cos.push((angle.cos() * factor) as f32);
                sin.push((angle.sin() * factor) as f32);
            }
        }
        (cos, sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_frequencies_are_powers_of_theta() {
        let rope = Rope { theta: 10000.0, size: 8, scaling: None };
        let f = rope.frequencies(16);
        for (found, wanted) in f.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((found - wanted).abs() < 1e-12);
        }
    }

    #[test]
    fn dynamic_scaling_leaves_short_sequences_alone() {
        let scaled = Rope { theta: 1e4, size: 8, scaling: Some(RopeScaling::Dynamic { factor: 4.0, original: 64 }) };
        let plain = Rope { theta: 1e4, size: 8, scaling: None };
        assert_eq!(scaled.frequencies(64), plain.frequencies(64));
        assert!(scaled.frequencies(128)[1] < plain.frequencies(128)[1]);
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 64 };
        let rope = Rope { theta: 10000.0, size: 16, scaling: Some(scaling) };
        let (scaled, plain) = (rope.frequencies(64), Rope { scaling: None, ..rope }.frequencies(64));
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[7] - plain[7] / 8.0).abs() < 1e-15);
    }

    /// Tables for a class serve every sequence of it, at its own frequencies.
    #[test]
    fn long_scaling_changes_its_factors_at_the_original_length() {
        let scaling =
            RopeScaling::Long { short: vec![1.0, 1.5], long: vec![2.0, 5.0], original: 10, attention_factor: 1.1 };
        let rope = Rope { theta: 100.0, size: 4, scaling: Some(scaling) };
        for (length, wanted) in [(3, [1.0, 0.1 / 1.5]), (10, [1.0, 0.1 / 1.5]), (11, [0.5, 0.02]), (33, [0.5, 0.02])] {
            let class = rope.length_class(length).unwrap_or(0);
            assert!(class >= length, "{class} {length}");
            for found in [rope.frequencies(length), rope.frequencies(class)] {
                assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-15), "{length}: {found:?}");
            }
        }
        assert_eq!(rope.length_class(12), rope.length_class(16));
    }
}
