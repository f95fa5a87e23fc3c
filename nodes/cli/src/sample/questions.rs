//! What `--measure` asks with right answers at hand: gaps, and stories of which every second sentence is hidden.

use difflow_model::Canvas;
use difflow_text::{TextError, Words};
use difflow_world::Gap;

/// A gap as tokens.
pub struct Question {
    pub left: Vec<u32>,
    pub answer: Vec<u32>,
    right: Vec<u32>,
}

impl Question {
    pub fn new(gap: &Gap, words: &Words) -> Result<Self, TextError> {
        let mut left = vec![words.bos];
        left.extend(words.encode(&gap.left)?);
        let mut right = words.encode_inner(&gap.right)?;
        right.push(words.eos);
        Ok(Self { left, answer: words.encode_inner(&gap.answer)?, right })
    }

    pub fn canvas(&self) -> Canvas {
        let mut canvas = Canvas::continuation(&self.left, self.answer.len(), 0);
        canvas.tokens.extend(&self.right);
        canvas.masked.resize(canvas.tokens.len(), false);
        canvas
    }
}

/// The story of a gap without its second, fourth, … sentence; the title is no sentence. Each keeps its number of tokens.
///
/// # Errors
/// When the tokenizer cannot read the story.
pub fn every_second_sentence_hidden(gap: &Gap, words: &Words, key: u64) -> Result<Canvas, TextError> {
    let story = [gap.left.as_str(), &gap.answer, &gap.right].concat();
    let mut canvas = Canvas { tokens: vec![words.bos], masked: vec![false], key };
    let mut add = |tokens: &[u32], hidden: bool| {
        canvas.tokens.extend(tokens);
        canvas.masked.resize(canvas.tokens.len(), hidden);
    };
    let (title, body) = story.split_at(story.find('\n').map_or(story.len(), |end| end + 1));
    add(&words.encode(title)?, false);
    let mut sentences = 0;
    for line in body.split_inclusive('\n') {
        for piece in line.split_inclusive('.') {
            sentences += usize::from(piece.ends_with('.'));
            let hidden = piece.ends_with('.') && sentences % 2 == 0;
            add(&words.encode_inner(piece)?, hidden);
        }
    }
    add(&[words.eos], false);
    Ok(canvas)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Hidden and shown pieces must be the tokens that the story has in training.
    #[test]
    fn stories_keep_their_tokens_and_every_second_sentence_is_hidden() {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/tiny/");
        let words = Words::open(&format!("{data}tokenizer.json"), "<bos>", "<eos>").unwrap();
        for gap in difflow_world::read_gaps(format!("{data}infill.jsonl").as_ref()).unwrap() {
            let story = [gap.left.as_str(), &gap.answer, &gap.right].concat();
            let canvas = every_second_sentence_hidden(&gap, &words, 3).unwrap();
            assert_eq!(canvas.tokens, [vec![words.bos], words.encode(&story).unwrap(), vec![words.eos]].concat());
            let mut runs = Vec::new();
            for part in canvas.tokens.iter().zip(&canvas.masked).collect::<Vec<_>>().chunk_by(|a, b| a.1 == b.1) {
                let ids: Vec<u32> = part.iter().map(|&(&token, _)| token).collect();
                if *part[0].1 {
                    runs.push(words.decode_inner(&ids).unwrap().trim().to_owned());
                }
            }
            let body = story.split_once('\n').unwrap().1.replace('\n', " ");
            let wanted: Vec<String> = body.split_inclusive('.').skip(1).step_by(2).map(|s| s.trim().into()).collect();
            assert_eq!(runs, wanted);
        }
    }
}
