//! Two checkpoints compared question by question: the same questions, so what they have in common cancels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::answers::{self, Answer};
use crate::error::EvalError;

/// A metric of two checkpoints over the questions that both answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    pub task: String,
    pub metric: String,
    pub questions: usize,
    pub a: f64,
    pub b: f64,
    /// Standard error of b − a over questions.
    pub stderr: f64,
    /// Questions that only the one and only the other has right; of metrics that are right or wrong.
    pub only: Option<(usize, usize)>,
    /// How probable a difference like this is by chance: McNemar's exact test where a question is right or wrong, else of the mean
    /// difference.
    pub p: f64,
    /// Up to ten questions that differ.
    pub differing: Vec<u64>,
}

/// Compares the last results in two folders that `difflow eval` wrote. Errors if there are none, or nothing in common.
pub fn compare(a: &Path, b: &Path) -> Result<Vec<Compared>, EvalError> {
    let (left, right) = (tasks(a)?, tasks(b)?);
    let mut all = Vec::new();
    for (task, left) in &left {
        let Some(right) = right.get(task) else { continue };
        let (left, right) = (read(left)?, read(right)?);
        let others: BTreeMap<u64, &Answer> = right.iter().map(|answer| (answer.question, answer)).collect();
        // A file that has changed asks other questions under the same numbers.
        let pairs: Vec<(&Answer, &Answer)> = left
            .iter()
            .filter_map(|one| Some((one, *others.get(&one.question)?)))
            .filter(|(one, other)| one.row == other.row)
            .collect();
        let mut metrics: Vec<&String> = pairs.iter().flat_map(|(one, _)| one.metrics.keys()).collect();
        metrics.sort();
        metrics.dedup();
        for metric in
            metrics.into_iter().filter(|name| !["bytes,none", "words,none", "tokens,none"].contains(&name.as_str()))
        {
            let values = pairs.iter().filter_map(|(one, other)| {
                Some((one.question, *one.metrics.get(metric)?, *other.metrics.get(metric)?))
            });
            all.extend(compared(task, metric, &values.collect::<Vec<_>>()));
        }
    }
    if all.is_empty() {
        let found = format!("no question in common with {}", b.display());
        return Err(EvalError::file(a)(&found));
    }
    Ok(all)
}

fn compared(task: &str, metric: &str, values: &[(u64, f64, f64)]) -> Option<Compared> {
    let count = values.len() as f64;
    if values.is_empty() {
        return None;
    }
    let mean = |of: &dyn Fn(&(u64, f64, f64)) -> f64| values.iter().map(of).sum::<f64>() / count;
    let (a, b) = (mean(&|value| value.1), mean(&|value| value.2));
    let squares: f64 = values.iter().map(|(_, one, other)| (other - one - (b - a)).powi(2)).sum();
    let stderr = (squares / (count - 1.0).max(1.0) / count).sqrt();
    let whole = values.iter().all(|(_, one, other)| [0.0, 1.0].contains(one) && [0.0, 1.0].contains(other));
    let only = whole.then(|| {
        let count = |right: f64, wrong: f64| values.iter().filter(|value| value.1 == right && value.2 == wrong).count();
        (count(1.0, 0.0), count(0.0, 1.0))
    });
    let p = match only {
        Some((left, right)) => mcnemar(left, right),
        None if stderr == 0.0 => 1.0,
        None => two_sided((b - a) / stderr),
    };
    let differing = values.iter().filter(|(_, one, other)| one != other).map(|value| value.0).take(10).collect();
    let (task, metric) = (task.to_owned(), metric.to_owned());
    Some(Compared { task, metric, questions: values.len(), a, b, stderr, only, p, differing })
}

/// McNemar's exact test: how probable it is that of `a + b` fair coins the rarer side comes up min(a, b) times or less, doubled.
fn mcnemar(a: usize, b: usize) -> f64 {
    let (count, fewer) = (a + b, a.min(b));
    // ln of (count choose i) · 2^−count, from i = 0 on.
    let mut term = -(count as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for i in 0..=fewer {
        sum += term.exp();
        term += ((count - i) as f64 / (i + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

/// How probable it is that a normal variable is as far from 0 as z (Abramowitz and Stegun 7.1.26, error below 1.5e-7).
fn two_sided(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let polynomial = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    polynomial.into_iter().fold(0.0, |sum, factor| (sum + factor) * t) * (-x * x).exp()
}

/// Task names of the last results of a folder, and where their answers are.
fn tasks(folder: &Path) -> Result<BTreeMap<String, PathBuf>, EvalError> {
    let wrong = EvalError::file(folder);
    let entries = std::fs::read_dir(folder).map_err(|e| wrong(&e))?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.filter(|name| name.starts_with("results_") && name.ends_with(".json")).collect();
    names.sort();
    let mut all = BTreeMap::new();
    // Later results replace earlier ones of the same task.
    for name in names {
        let path = folder.join(name);
        let text = std::fs::read(&path).map_err(|e| EvalError::file(&path)(&e))?;
        let results: Json = serde_json::from_slice(&text).map_err(|e| EvalError::file(&path)(&e))?;
        for (task, own) in results["difflow"]["tasks"].as_object().into_iter().flatten() {
            all.extend(own["answers"].as_str().map(|answers| (task.clone(), folder.join(answers))));
        }
    }
    if all.is_empty() {
        return Err(wrong(&"no results; allowed: a folder with results_*.json that `difflow eval` wrote"));
    }
    Ok(all)
}

fn read(folder: &Path) -> Result<Vec<Answer>, EvalError> {
    let entries = std::fs::read_dir(folder).map_err(|e| EvalError::file(folder)(&e))?;
    let mut parts: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    parts.retain(|path| path.extension().is_some_and(|ending| ending == "parquet"));
    parts.sort();
    let mut all = Vec::new();
    for part in parts {
        all.append(&mut answers::read(&part)?);
    }
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Values of scipy's binomtest and of the normal distribution's tables.
    #[test]
    fn the_tests_have_their_known_values() {
        assert!((mcnemar(1, 9) - 0.021_484_375).abs() < 1e-9);
        assert!((mcnemar(9, 1) - mcnemar(1, 9)).abs() < 1e-12);
        assert!((mcnemar(4, 4) - 1.0).abs() < 1e-9 && mcnemar(0, 0) == 1.0);
        assert!(mcnemar(2000, 2300) < 1e-4 && mcnemar(2000, 2300) > 0.0);
        assert!((two_sided(1.96) - 0.05).abs() < 1e-4 && (two_sided(-3.0) - 0.0027).abs() < 1e-5);
    }

    #[test]
    fn questions_are_paired() {
        let values: Vec<(u64, f64, f64)> = (0..100).map(|n| (n, 1.0, f64::from(u8::from(n >= 10)))).collect();
        let found = compared("t", "acc,none", &values).unwrap();
        assert_eq!((found.only, found.a, found.b, found.differing.len()), (Some((10, 0)), 1.0, 0.9, 10));
        assert!((found.p - 2.0 / 1024.0).abs() < 1e-12 && (found.stderr - 0.030_15).abs() < 1e-4, "{found:?}");
        let values: Vec<(u64, f64, f64)> = (0..50).map(|n| (n, n as f64, n as f64 + 0.5 + (n % 2) as f64)).collect();
        let found = compared("t", "nats,none", &values).unwrap();
        assert!(found.only.is_none() && (found.b - found.a - 1.0).abs() < 1e-9 && found.p < 1e-9, "{found:?}");
        assert!(compared("t", "acc,none", &[]).is_none());
    }
}
