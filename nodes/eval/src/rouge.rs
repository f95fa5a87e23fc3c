//! ROUGE as the package rouge-score computes it without a stemmer: F-measures of common runs of words, and of the longest common
//! subsequence.

use std::collections::HashMap;

/// F-measures, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rouge {
    pub one: f64,
    pub two: f64,
    pub longest: f64,
}

impl Rouge {
    /// Compares a text with the right one.
    pub fn of(text: &str, answer: &str) -> Self {
        let (text, answer) = (words(text), words(answer));
        Self { one: runs(&text, &answer, 1), two: runs(&text, &answer, 2), longest: subsequence(&text, &answer) }
    }
}

/// Words of ASCII letters and digits, in small letters; everything else separates them.
fn words(text: &str) -> Vec<String> {
    let small = text.to_lowercase();
    let words = small.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn runs(text: &[String], answer: &[String], length: usize) -> f64 {
    let counted = |words: &[String]| {
        let mut counts = HashMap::<Vec<String>, usize>::new();
        words.windows(length).for_each(|run| *counts.entry(run.to_vec()).or_default() += 1);
        counts
    };
    let (text, answer) = (counted(text), counted(answer));
    let common: usize = answer.iter().map(|(run, &count)| count.min(text.get(run).copied().unwrap_or(0))).sum();
    let all = |counts: &HashMap<Vec<String>, usize>| counts.values().sum::<usize>().max(1);
    balanced(common, all(&text), all(&answer))
}

fn subsequence(text: &[String], answer: &[String]) -> f64 {
    if text.is_empty() || answer.is_empty() {
        return 0.0;
    }
    let mut row = vec![0; text.len() + 1];
    for word in answer {
        let mut diagonal = 0;
        for (at, other) in text.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if word == other { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    balanced(row[text.len()], text.len(), answer.len())
}

/// The harmonic mean of precision and recall.
fn balanced(common: usize, text: usize, answer: usize) -> f64 {
    let (precision, recall) = (common as f64 / text as f64, common as f64 / answer as f64);
    if common == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Made by the package, with tests/goldens/rouge.py.
    #[test]
    fn it_equals_rouge_score_on_a_corpus_of_cases() {
        let goldens: Vec<serde_json::Value> =
            serde_json::from_str(include_str!("../tests/goldens/rouge.json")).unwrap();
        assert!(goldens.len() > 200);
        for golden in goldens {
            let text = |key: &str| golden[key].as_str().unwrap();
            let found = Rouge::of(text("text"), text("answer"));
            for (name, value) in [("rouge1", found.one), ("rouge2", found.two), ("rougeL", found.longest)] {
                assert!((value - golden[name].as_f64().unwrap()).abs() < 1e-12, "{name} of {golden}: {value}");
            }
        }
    }
}
