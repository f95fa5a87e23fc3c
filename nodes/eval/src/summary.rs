//! The numbers of a task from the answers to its questions, with errors and intervals.

use std::collections::BTreeMap;

use difflow_diffusion::keyed;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::answers::{Answer, MetricName};

/// Resamples of the bootstrap.
const RESAMPLES: u64 = 1000;

/// A metric over all questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub value: f64,
    /// Standard error over questions.
    pub stderr: f64,
    /// 95 % interval: percentiles of the bootstrap over questions.
    pub low: f64,
    pub high: f64,
}

/// What a perplexity is a ratio of: Σ nats over Σ of the second, then exp or a factor.
const RATIOS: [(&str, &str, bool); 4] = [
    ("word_perplexity", "words", true),
    ("byte_perplexity", "bytes", true),
    ("bits_per_byte", "bytes", false),
    ("nats_per_token", "tokens", false),
];

/// Returns the metrics of answers. The same answers give the same numbers.
pub fn summary(answers: &[Answer]) -> BTreeMap<MetricName, Figure> {
    let mut figures = BTreeMap::new();
    let mut names: Vec<&MetricName> = answers.iter().flat_map(|answer| answer.metrics.keys()).collect();
    names.sort();
    names.dedup();
    let column = |name: &str| -> Vec<f64> {
        answers.iter().map(|answer| answer.metrics.get(name).copied().unwrap_or(f64::NAN)).collect()
    };
    if names.iter().any(|name| *name == "nats,none") {
        let nats = column("nats,none");
        for (name, per, exponential) in RATIOS {
            let per = column(&format!("{per},none"));
            let last = |ratio: f64| match name {
                "bits_per_byte" => ratio / std::f64::consts::LN_2,
                _ if exponential => ratio.exp(),
                _ => ratio,
            };
            figures.insert(
                format!("{name},none"),
                figure(answers.len(), &|rows| {
                    let sum = |values: &[f64]| rows.iter().map(|&row| values[row]).sum::<f64>();
                    last(sum(&nats) / sum(&per))
                }),
            );
        }
        return figures;
    }
    for name in names {
        let values = column(name);
        // A question that was left out has no value.
        let there: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        let mean = |rows: &[usize]| rows.iter().map(|&row| there[row]).sum::<f64>() / rows.len() as f64;
        let mut found = figure(there.len(), &mean);
        let squares: f64 = there.iter().map(|value| (value - found.value).powi(2)).sum();
        found.stderr = (squares / (there.len() as f64 - 1.0) / there.len() as f64).sqrt();
        figures.insert(name.clone(), found);
    }
    figures
}

/// A statistic of all rows, with the spread that it has over resampled ones.
fn figure(count: usize, statistic: &dyn Fn(&[usize]) -> f64) -> Figure {
    let value = statistic(&(0..count).collect::<Vec<_>>());
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|resample| {
            let mut rng = keyed::rng(0, "bootstrap", resample, count as u64);
            let rows: Vec<usize> = (0..count).map(|_| rng.random_range(0..count as u64) as usize).collect();
            statistic(&rows)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let spread = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64;
    Figure { value, stderr: spread.sqrt(), low: at(0.025), high: at(0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(name: &str, values: &[f64]) -> Vec<Answer> {
        let answer = |value: &f64| Answer { metrics: BTreeMap::from([(name.to_owned(), *value)]), ..Answer::default() };
        values.iter().map(answer).collect()
    }

    #[test]
    fn accuracy_has_the_error_and_the_interval_of_its_questions() {
        let values: Vec<f64> = (0..400).map(|n| f64::from(u8::from(n % 4 == 0))).collect();
        let found = summary(&answers("acc,none", &values))["acc,none"];
        assert!((found.value - 0.25).abs() < 1e-12);
        assert!((found.stderr - (0.25f64 * 0.75 / 399.0).sqrt()).abs() < 1e-12, "{found:?}");
        // 1.96 errors to either side.
        assert!((found.low - 0.2075).abs() < 0.01 && (found.high - 0.2925).abs() < 0.01, "{found:?}");
        assert_eq!(found, summary(&answers("acc,none", &values))["acc,none"]);
    }

    #[test]
    fn perplexities_are_ratios_of_sums() {
        let one = |nats: f64, words: f64, bytes: f64, tokens: f64| Answer {
            metrics: [("nats", nats), ("words", words), ("bytes", bytes), ("tokens", tokens)]
                .map(|(name, value)| (format!("{name},none"), value))
                .into(),
            ..Answer::default()
        };
        let found = summary(&[one(6.0, 2.0, 10.0, 4.0), one(2.0, 2.0, 6.0, 4.0)]);
        assert!((found["word_perplexity,none"].value - 2f64.exp()).abs() < 1e-9);
        assert!((found["byte_perplexity,none"].value - 0.5f64.exp()).abs() < 1e-9);
        assert!((found["bits_per_byte,none"].value - 0.5 / 2f64.ln()).abs() < 1e-9);
        assert!((found["nats_per_token,none"].value - 1.0).abs() < 1e-9 && found["nats_per_token,none"].stderr > 0.0);
    }

    #[test]
    fn a_question_without_a_value_does_not_count() {
        let found = summary(&answers("rouge1,oracle", &[1.0, f64::NAN, 0.0]))["rouge1,oracle"];
        assert_eq!(found.value, 0.5);
    }
}
