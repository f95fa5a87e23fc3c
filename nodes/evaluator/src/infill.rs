//! Exact match on gaps: with both sides visible (diffusion), and with the left side only (left to right).

use difflow_model::{Canvas, DiffusionDecoding, Generation, Model, Prompt, Sampling};
use difflow_text::Words;
use difflow_world::Gap;
use eyre::Result;

/// A gap as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    left: Vec<u32>,
    answer: Vec<u32>,
    right: Vec<u32>,
}

impl Question {
    /// `<bos> left`, the answer, `right <eos>`.
    ///
    /// # Errors
    /// When the tokenizer cannot read the text.
    pub fn new(gap: &Gap, words: &Words) -> Result<Self> {
        let mut left = vec![words.bos];
        left.extend(words.encode(&gap.left)?);
        let mut right = words.encode(&gap.right)?;
        right.push(words.eos);
        Ok(Self { left, answer: words.encode(&gap.answer)?, right })
    }

    fn canvas(&self, key: u64) -> Canvas {
        let mut canvas = Canvas::continuation(&self.left, self.answer.len(), key);
        canvas.tokens.extend(&self.right);
        canvas.masked.resize(canvas.tokens.len(), false);
        canvas
    }

    fn matches(&self, found: &[u32], words: &Words) -> Result<bool> {
        // The same text may have other tokens.
        Ok(found == self.answer || words.decode(found)? == words.decode(&self.answer)?)
    }
}

/// Share of the questions whose whole answer is found with both sides visible: the surest position first, one a step, always
/// its most probable token. `go_on` is asked before every batch of `rows`.
///
/// # Errors
/// When the model refuses a canvas, or `go_on` fails.
pub fn both_sides(
    model: &Model,
    questions: &[Question],
    words: &Words,
    rows: usize,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<f64> {
    let shift = model.config().adapted.as_ref().is_none_or(|adapted| adapted.shift);
    let options = DiffusionDecoding::surest_first(shift);
    let mut right = 0;
    for chunk in questions.chunks(rows) {
        go_on()?;
        let canvases: Vec<Canvas> = (0..).zip(chunk).map(|(key, question)| question.canvas(key)).collect();
        let filled = model.decode(&canvases, &options)?;
        for (question, filled) in chunk.iter().zip(filled) {
            let start = question.left.len();
            let found = &filled.tokens[start..start + question.answer.len()];
            right += usize::from(question.matches(found, words)?);
        }
    }
    Ok(right as f64 / questions.len() as f64)
}

/// Share of the questions whose whole answer is found from the left side alone, always the most probable token; the number
/// of tokens is given, as it is with both sides.
///
/// # Errors
/// As [`both_sides`].
pub fn left_only(
    model: &Model,
    questions: &[Question],
    words: &Words,
    rows: usize,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<f64> {
    let mut right = 0;
    for chunk in questions.chunks(rows) {
        go_on()?;
        let prompts: Vec<Prompt> =
            (0..).zip(chunk).map(|(key, question)| Prompt { tokens: question.left.clone(), key }).collect();
        let longest = chunk.iter().map(|question| question.answer.len()).max().unwrap_or(0);
        let options = Generation { max_new_tokens: longest, sampling: Sampling::GREEDY, seed: 0, stop: Vec::new() };
        for (question, text) in chunk.iter().zip(model.generate(&prompts, &options)?) {
            right += usize::from(question.matches(&text.tokens[..question.answer.len()], words)?);
        }
    }
    Ok(right as f64 / questions.len() as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tiny;

    fn question() -> Question {
        Question { left: vec![1, 5, 6], answer: vec![7, 8], right: vec![9, 2] }
    }

    #[test]
    fn only_the_answer_is_masked_and_the_end_is_given() {
        let canvas = question().canvas(0);
        assert_eq!(canvas.masked, [false, false, false, true, true, false, false]);
        assert_eq!(canvas.tokens[..3], [1, 5, 6]);
        assert_eq!(canvas.tokens[5..], [9, 2]);
    }

    /// The score must be 1 when the model's own answers are the wanted ones, and 0 when one token of each is another.
    #[test]
    fn the_whole_answer_has_to_be_right() {
        let words = tiny::words();
        let model = tiny::model(true);
        let mut questions = vec![question(), Question { answer: vec![7, 8, 9], ..question() }];
        let options = DiffusionDecoding::surest_first(true);
        for question in &mut questions {
            let filled = model.decode(&[question.canvas(0)], &options).unwrap();
            question.answer = filled[0].tokens[3..3 + question.answer.len()].to_vec();
        }
        assert_eq!(both_sides(&model, &questions, &words, 1, &mut || Ok(())).unwrap(), 1.0);
        assert_eq!(both_sides(&model, &questions, &words, 2, &mut || Ok(())).unwrap(), 1.0);
        let last = questions[1].answer.last_mut().unwrap();
        *last = if *last == 20 { 21 } else { 20 };
        assert_eq!(both_sides(&model, &questions, &words, 2, &mut || Ok(())).unwrap(), 0.5);
    }

    #[test]
    fn answers_of_different_lengths_are_continued_in_one_batch() {
        let words = tiny::words();
        let model = tiny::model(false);
        let mut questions = vec![question(), Question { left: vec![1, 9], answer: vec![7, 8, 9], ..question() }];
        for question in &mut questions {
            let max_new_tokens = question.answer.len();
            let options = Generation { max_new_tokens, sampling: Sampling::GREEDY, seed: 0, stop: Vec::new() };
            let prompt = Prompt { tokens: question.left.clone(), key: 0 };
            question.answer = model.generate(&[prompt], &options).unwrap().remove(0).tokens;
        }
        assert_eq!(left_only(&model, &questions, &words, 2, &mut || Ok(())).unwrap(), 1.0);
    }
}
