//! Gaps in texts, as tokens: the text to the left and right, the allowed length of the gap, and the answer if there
//! is one.

use difflow_model::{GapLength, Piece, Template};
use difflow_text::{Gap as GapText, TextError, Words};

/// A gap and the text around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The anchor (BOS or EOS) and the text before the gap.
    pub left: Vec<u32>,
    /// The right answer, if it is known.
    pub answer: Option<Vec<u32>>,
    /// Tokens of the gap.
    pub length: GapLength,
    /// The text after it, including the end of the document.
    pub right: Vec<u32>,
}

impl Gap {
    /// Returns a gap as long as its answer between the two sides of a text: `<bos> left`, the gap, `right <eos>`.
    /// Answer and right side follow other text, so tokenizers that put a space before any text do not add one to them.
    /// Errors if the tokenizer cannot encode the text.
    pub fn of_text(gap: &GapText, words: &Words) -> Result<Self, TextError> {
        let mut left = vec![words.bos];
        left.extend(words.encode(&gap.left)?);
        let mut right = words.encode_inner(&gap.right)?;
        right.push(words.eos);
        let answer = words.encode_inner(&gap.answer)?;
        let length = GapLength { least: answer.len(), most: answer.len() };
        Ok(Self { left, answer: Some(answer), length, right })
    }

    /// Returns the text to fill in with both sides in view; `key` is the key of its random numbers.
    pub fn both_sides(&self, key: u64) -> Template {
        let (left, right) = (Piece::Tokens(self.left.clone()), Piece::Tokens(self.right.clone()));
        Template { pieces: vec![left, Piece::Gap(self.length), right], key }
    }

    /// Returns the text to continue from its left side alone.
    pub fn left_only(&self, key: u64) -> Template {
        Template { pieces: vec![Piece::Tokens(self.left.clone()), Piece::Gap(self.length)], key }
    }

    /// Returns whether a filling is the answer, in the same tokens or in others that decode to the same text. Errors if
    /// the tokenizer cannot decode one of them.
    pub fn matches(&self, filling: &[u32], words: &Words) -> Result<bool, TextError> {
        let Some(answer) = &self.answer else { return Ok(false) };
        Ok(filling == answer || words.decode_inner(filling)? == words.decode_inner(answer)?)
    }
}

/// Returns the text of a gap with its second, fourth, … sentence hidden; the title (a first line) is not a sentence.
/// Each hidden one keeps its number of tokens. Errors if the tokenizer cannot encode the text.
pub fn every_second_sentence_hidden(gap: &GapText, words: &Words, key: u64) -> Result<Template, TextError> {
    let story = [gap.left.as_str(), &gap.answer, &gap.right].concat();
    let mut pieces = vec![Piece::Tokens(vec![words.bos])];
    let (title, body) = story.split_at(story.find('\n').map_or(story.len(), |end| end + 1));
    pieces.push(Piece::Tokens(words.encode(title)?));
    let mut sentences = 0;
    for line in body.split_inclusive('\n') {
        for piece in line.split_inclusive('.') {
            sentences += usize::from(piece.ends_with('.'));
            let tokens = words.encode_inner(piece)?;
            let (hidden, length) = (piece.ends_with('.') && sentences % 2 == 0, tokens.len());
            pieces.push(if hidden {
                Piece::Gap(GapLength { least: length, most: length })
            } else {
                Piece::Tokens(tokens)
            });
        }
    }
    pieces.push(Piece::Tokens(vec![words.eos]));
    Ok(Template { pieces, key })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tiny;

    fn text(left: &str, answer: &str, right: &str) -> GapText {
        GapText { id: 7, left: left.into(), answer: answer.into(), right: right.into() }
    }

    #[test]
    fn only_the_answer_is_masked_and_the_end_is_given() {
        let words = tiny::words();
        let gap = Gap::of_text(&text("ab", " c", "d"), &words).unwrap();
        assert_eq!((gap.left[0], gap.right.last()), (words.bos, Some(&words.eos)));
        assert_eq!((gap.length.least, gap.length.most), (2, 2));
        assert_eq!(gap.both_sides(4).pieces.len(), 3);
        let answer = gap.answer.clone().unwrap();
        assert!(gap.matches(&answer, &words).unwrap() && !gap.matches(&[3, 4], &words).unwrap());
    }

    /// Sampler and evaluator put the space of LLaMA 2's tokenizers before answer and right side: tokens that the model never saw there.
    #[test]
    fn the_three_parts_of_a_gap_have_the_tokens_of_the_whole_text() {
        let Some(data) = difflow_tests::real_data("a LLaMA 2 tokenizer") else { return };
        let path = data.join("models/stories260K/tokenizer.json");
        let words = Words::open(&path, 1, 2).unwrap();
        let text = text("Once upon a time there was a", " big dog", " who liked to run.");
        let gap = Gap::of_text(&text, &words).unwrap();
        let whole = words.encode(&[text.left.as_str(), &text.answer, &text.right].concat()).unwrap();
        let parts = [gap.left.clone(), gap.answer.clone().unwrap(), gap.right.clone()].concat();
        assert_eq!(parts, [vec![1], whole, vec![2]].concat());
        assert_eq!(words.decode_inner(&gap.answer.unwrap()).unwrap(), text.answer);
    }

    /// Hidden and shown pieces must be the tokens that the text has in training.
    #[test]
    fn texts_keep_their_tokens_and_every_second_sentence_is_hidden() {
        let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/tiny"));
        let words = Words::open(&data.join("tokenizer.json"), 0, 1).unwrap();
        for gap in difflow_text::read_gaps(&data.join("infill.jsonl")).unwrap() {
            let story = [gap.left.as_str(), &gap.answer, &gap.right].concat();
            let tokens = [vec![words.bos], words.encode(&story).unwrap(), vec![words.eos]].concat();
            let template = every_second_sentence_hidden(&gap, &words, 3).unwrap();
            let (mut at, mut hidden) = (0, Vec::new());
            for piece in &template.pieces {
                let start = at;
                match piece {
                    Piece::Tokens(given) => {
                        at += given.len();
                        assert_eq!(*given, tokens[start..at]);
                    }
                    Piece::Gap(length) => {
                        at += length.most;
                        hidden.push(words.decode_inner(&tokens[start..at]).unwrap().trim().to_owned());
                    }
                }
            }
            assert_eq!(at, tokens.len());
            let body = story.split_once('\n').unwrap().1.replace('\n', " ");
            let wanted: Vec<String> = body.split_inclusive('.').skip(1).step_by(2).map(|s| s.trim().into()).collect();
            assert_eq!(hidden, wanted);
        }
    }
}
