//! Figures of the corpus.

use crate::bpe;
use crate::check::check;
use crate::corpus::{Corpus, GAPS};
use crate::corrupt::corrupt;
use crate::dice::Dice;
use crate::error::WorldError;
use crate::gaps::choose_gaps;
use crate::mentions::mentions;
use crate::skeleton::skeleton;
use std::collections::{BTreeMap, BTreeSet};

/// Tells the whole corpus for the seed and describes it; one `name: figures` a line.
///
/// # Errors
/// The tokenizer cannot be trained or does not encode.
pub fn describe(seed: u64) -> Result<String, WorldError> {
    let corpus = Corpus::tell(seed);
    let tokenizer = bpe::train(corpus.train.iter().map(String::as_str))?;
    let all = || corpus.train.iter().chain(&corpus.heldout);
    let mut lines = Vec::new();

    let passed = all().filter(|text| check(text).is_ok()).count();
    lines.push(format!(
        "stories: {} training, {} held out, {passed} pass the checker",
        corpus.train.len(),
        corpus.heldout.len()
    ));
    lines.push(format!("words a story: {}", spread(all().map(|text| text.split_whitespace().count()))));
    lines.push(format!("facts named a story: {}", spread(corpus.heldout.iter().map(|text| mentions(text).len()))));

    let mut tokens = Vec::new();
    for text in all() {
        let encoding = tokenizer.encode_fast(text.as_str(), false)?;
        tokens.push(encoding.len() + 2);
    }
    lines.push(format!(
        "tokens a story, with <bos> and <eos>: {}, {} in all",
        spread(tokens.iter().copied()),
        tokens.iter().sum::<usize>()
    ));
    lines.push(format!("tokenizer: {} tokens", tokenizer.get_vocab_size(true)));

    let words: BTreeSet<&str> =
        all().flat_map(|text| text.split_whitespace()).map(|word| word.trim_end_matches(['.', ','])).collect();
    let mut split = 0;
    for word in &words {
        let spaced = format!(" {word}");
        split += usize::from(tokenizer.encode_fast(spaced, false)?.len() > 1);
    }
    lines
        .push(format!("vocabulary: {} distinct words, {split} of them more than one token after a space", words.len()));

    let seen: BTreeSet<String> = corpus.train.iter().map(|text| skeleton(text)).collect();
    let known = corpus.heldout.iter().filter(|text| seen.contains(&skeleton(text))).count();
    let share = percent(known, corpus.heldout.len());
    lines.push(format!(
        "skeletons: {} distinct in training, {share:.1} % of the held-out ones among them; {} stories left out for a skeleton told before",
        seen.len(),
        corpus.repeats
    ));

    let mut dice = Dice::new(seed, 5, 0);
    let (mut tried, mut refused) = (0, 0);
    for corruption in
        corpus.heldout.iter().filter_map(|text| corrupt(text, &mut dice)).filter(|one| one.fixed_elsewhere)
    {
        tried += 1;
        refused += usize::from(check(&corruption.text).is_err());
    }
    let share = percent(refused, tried);
    lines.push(format!("corruptions of a fact named twice: {refused} of {tried} refused ({share:.1} %)"));

    let mut classes: BTreeMap<String, usize> = BTreeMap::new();
    let gaps = choose_gaps(&corpus.heldout, GAPS, seed);
    for gap in &gaps {
        let at = gap.left.len() + usize::from(gap.answer.starts_with(' '));
        let text = format!("{}{}{}", gap.left, gap.answer, gap.right);
        let named = mentions(&text).into_iter().find(|named| named.bytes.start == at);
        *classes.entry(named.map_or_else(String::new, |named| named.class.label().to_lowercase())).or_insert(0) += 1;
    }
    let classes: Vec<String> = classes.iter().map(|(class, count)| format!("{class} {count}")).collect();
    lines.push(format!(
        "gaps: {} ({}); words a gap: {}",
        gaps.len(),
        classes.join(", "),
        spread(gaps.iter().map(|gap| gap.answer.split_whitespace().count()))
    ));
    lines.push(String::new());
    Ok(lines.join("\n"))
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn spread(values: impl Iterator<Item = usize>) -> String {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    let (Some(least), Some(most)) = (values.first(), values.last()) else { return "none".to_owned() };
    let mean = values.iter().sum::<usize>() as f64 / values.len() as f64;
    format!("mean {mean:.1}, {least} to {most}, 95 % up to {}", values[values.len() * 95 / 100])
}
