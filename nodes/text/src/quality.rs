//! Metrics of generated texts that need no other model: how varied they are, and how repetitive.

use std::collections::{BTreeMap, BTreeSet};

/// Different runs of `n` neighbouring words over all such runs, of all texts together (distinct-n, arXiv 1510.03055): low when a
/// model repeats itself within or across texts. NaN when there is no run.
pub fn distinct<'a>(n: usize, texts: impl IntoIterator<Item = &'a str>) -> f64 {
    let (mut different, mut all) = (BTreeSet::new(), 0u64);
    for text in texts {
        let words: Vec<&str> = text.split_whitespace().collect();
        for run in words.windows(n.max(1)) {
            all += 1;
            different.insert(run.to_vec());
        }
    }
    different.len() as f64 / all as f64
}

/// Entropy in nats of the tokens of one text (of their counts, not of a model), in the mean over texts: low when a text says the
/// same few tokens over and over. NaN when no text has a token.
pub fn entropy(texts: &[Vec<u32>]) -> f64 {
    mean(texts.iter().filter(|text| !text.is_empty()).map(|text| {
        let mut counts = BTreeMap::new();
        text.iter().for_each(|token| *counts.entry(token).or_insert(0u32) += 1);
        let share = |count: &u32| f64::from(*count) / text.len() as f64;
        -counts.values().map(|count| share(count) * share(count).ln()).sum::<f64>()
    }))
}

/// Share of a text's runs of four tokens that stood earlier in the same text, in the mean over texts. NaN when no text is that
/// long.
pub fn repetition(texts: &[Vec<u32>]) -> f64 {
    mean(texts.iter().filter(|text| text.len() >= 4).map(|text| {
        let different: BTreeSet<&[u32]> = text.windows(4).collect();
        1.0 - different.len() as f64 / text.windows(4).len() as f64
    }))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_words_lower_distinct_n_across_texts() {
        assert_eq!(distinct(2, ["a b c", "d"]), 1.0);
        assert_eq!(distinct(2, ["a b a b", "a b"]), 0.5);
        assert_eq!(distinct(1, ["a b", "a c"]), 0.75);
        assert!(distinct(2, ["a"]).is_nan());
    }

    #[test]
    fn entropy_is_that_of_each_texts_own_counts() {
        assert!((entropy(&[vec![1, 2, 3, 4], vec![7, 7]]) - 0.5 * 4f64.ln()).abs() < 1e-12);
        assert!(entropy(&[vec![]]).is_nan());
    }

    #[test]
    fn only_runs_that_come_again_count_as_repetition() {
        assert_eq!(repetition(&[vec![1, 2, 3, 4, 5, 6]]), 0.0);
        assert_eq!(repetition(&[vec![1, 1, 1, 1, 1]]), 0.5);
        assert!(repetition(&[vec![1, 2, 3]]).is_nan());
    }
}
