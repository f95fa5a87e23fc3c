//! What is to be written: empty canvases and gaps.

use difflow_model::Canvas;
use difflow_text::{Lengths, Words};
use difflow_world::Gap;
use eyre::Result;

use crate::config::Config;

/// One text to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// What is given, and what is to be filled in.
    pub canvas: Canvas,
    /// The gap that the canvas was made from; `None` for text from nothing.
    pub gap: Option<Gap>,
}

/// The canvases of the texts from nothing: `<bos>` and a drawn number of masked positions.
pub fn unconditional(config: &Config, lengths: Lengths, words: &Words, count: u64) -> Vec<Job> {
    let canvas = |index| Canvas::unconditional(words.bos, lengths.draw(config.seed, index), index);
    (0..count).map(|index| Job { canvas: canvas(index), gap: None }).collect()
}

/// The canvases of gaps: `<bos> left`, as many masked positions as the answer has tokens, `right <eos>`.
///
/// # Errors
/// When the tokenizer cannot read the text.
pub fn infillings(gaps: &[Gap], words: &Words) -> Result<Vec<Job>> {
    let job = |(index, gap): (u64, &Gap)| {
        let mut left = vec![words.bos];
        left.extend(words.encode(&gap.left)?);
        let mut canvas = Canvas::continuation(&left, words.encode(&gap.answer)?.len(), index);
        canvas.tokens.extend(words.encode(&gap.right)?);
        canvas.tokens.push(words.eos);
        canvas.masked.resize(canvas.tokens.len(), false);
        Ok(Job { canvas, gap: Some(gap.clone()) })
    };
    (0..).zip(gaps).map(job).collect()
}

impl Job {
    /// What was given, as text: for a gap the story with `[…]` in its place.
    pub fn prompt(&self) -> String {
        let Some(gap) = &self.gap else { return String::new() };
        let space = if gap.answer.starts_with(' ') { " " } else { "" };
        format!("{}{space}[…]{}", gap.left, gap.right)
    }

    /// The tokens of a filled canvas that are its text: after the anchor, and up to the first `eos` or, for a gap, the last.
    pub fn text<'a>(&self, filled: &'a [u32], eos: u32) -> &'a [u32] {
        let text = &filled[1.min(filled.len())..];
        let end = match self.gap {
            None => text.iter().position(|&token| token == eos).unwrap_or(text.len()),
            Some(_) => text.len().saturating_sub(1),
        };
        &text[..end]
    }

    /// A text from nothing with its anchor and, where there is one, the first `eos`.
    pub fn whole(&self, mut filled: Vec<u32>, eos: u32) -> Vec<u32> {
        let end = filled.iter().skip(1).position(|&token| token == eos).map_or(filled.len(), |at| at + 2);
        filled.truncate(end);
        filled
    }

    /// The tokens of a filled canvas that were masked.
    pub fn filling(&self, filled: &[u32]) -> Vec<u32> {
        filled.iter().zip(&self.canvas.masked).filter_map(|(&token, &masked)| masked.then_some(token)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tiny;

    fn gap() -> Gap {
        Gap { id: 7, left: "ab".into(), answer: " c".into(), right: "d".into() }
    }

    #[test]
    fn a_gap_is_masked_between_what_is_given() {
        let words = tiny::words();
        let job = infillings(&[gap()], &words).unwrap().remove(0);
        assert_eq!(job.canvas.masked, [false, false, false, true, true, false, false]);
        assert_eq!((job.canvas.tokens[0], job.canvas.tokens[6]), (words.bos, words.eos));
        assert_eq!(job.prompt(), "ab […]d");
        assert_eq!(job.filling(&[1, 3, 4, 10, 11, 5, 2]), [10, 11]);
        // An eos in the gap must not hide what follows it.
        assert_eq!(job.text(&[1, 3, 4, 2, 11, 5, 2], 2), [3, 4, 2, 11, 5]);
    }

    #[test]
    fn text_from_nothing_ends_before_its_first_eos_even_if_that_is_the_anchor_too() {
        let config = Config::default();
        let job = unconditional(&config, Lengths { low: 4, high: 4 }, &tiny::words(), 1).remove(0);
        assert_eq!(job.canvas.tokens.len(), 5);
        assert_eq!(job.text(&[2, 5, 6, 2, 7], 2), [5, 6]);
        assert_eq!(job.text(&[2, 5, 6, 7, 8], 2), [5, 6, 7, 8]);
        assert_eq!(job.whole(vec![2, 5, 6, 2, 7], 2), [2, 5, 6, 2]);
        assert_eq!(job.whole(vec![2, 5, 6], 2), [2, 5, 6]);
    }
}
