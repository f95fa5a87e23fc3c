//! Texts with gaps, as tokens.

use difflow_model::{GapLength, Piece};
use difflow_text::{Lengths, Part, TextError};

use crate::session::Session;

/// New tokens of a text that the model does not end by itself, where nobody says how many.
pub const DEFAULT_LENGTH: usize = 128;

/// A text as the model takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pieces {
    /// Tokens and gaps, the anchor first.
    pub pieces: Vec<Piece>,
    /// Bounds of a free end.
    pub end: Option<Lengths>,
    /// What about it is probably not meant.
    pub doubt: Option<String>,
}

impl Session {
    /// Returns the tokens and gaps of a text. A gap at its end that says no length is a free end, as long as `end` says of the most tokens
    /// that the model ends by itself; any other that says none has the bounds `gap`. A text that does not end in a gap is given to its
    /// end. Errors if the tokenizer cannot read it.
    pub fn pieces(
        &self,
        parts: &[Part],
        gap: Lengths,
        end: impl Fn(Option<usize>) -> Lengths,
    ) -> Result<Pieces, TextError> {
        let words = self.words();
        let mut pieces = vec![Piece::Tokens(vec![words.bos])];
        let (mut free, mut doubt) = (None, None);
        for (at, part) in parts.iter().enumerate() {
            let bounds = |Lengths { low, high }: Lengths| Piece::Gap(GapLength { least: low, most: high });
            match part {
                Part::Text(text) => {
                    let tokens = if at == 0 { words.encode(text)? } else { words.encode_inner(text)? };
                    let back = if at == 0 { words.decode(&tokens)? } else { words.decode_inner(&tokens)? };
                    if back.trim() != text.trim() {
                        doubt = Some(format!("the tokenizer turns `{}` into `{}`", text.trim(), back.trim()));
                    }
                    pieces.push(Piece::Tokens(tokens));
                }
                Part::Gap(None) if at + 1 == parts.len() => {
                    let lengths = end(self.room_behind(pieces.iter().map(longest).sum()));
                    free = Some(lengths);
                    pieces.push(bounds(lengths));
                }
                Part::Gap(lengths) => pieces.push(bounds(lengths.unwrap_or(gap))),
            }
        }
        if matches!(parts.last(), Some(Part::Text(_))) {
            // The text is given to its end.
            pieces.push(Piece::Tokens(vec![words.eos]));
        }
        Ok(Pieces { pieces, end: free, doubt })
    }

    /// The most tokens that the model writes behind `given` ones, the anchor included, and ends by itself; `None` where it must be told.
    pub fn room_behind(&self, given: usize) -> Option<usize> {
        // What is given stands in the canvas, too.
        self.room().map(|canvas| canvas.saturating_sub(given.saturating_sub(1)).max(2) - 1)
    }
}

/// Most tokens that a piece can have.
fn longest(piece: &Piece) -> usize {
    match piece {
        Piece::Tokens(tokens) => tokens.len(),
        Piece::Gap(gap) => gap.most,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tiny;

    #[test]
    fn a_last_gap_without_a_length_is_a_free_end_and_a_last_text_is_given_to_its_end() {
        let session = tiny::session(true, 0.3);
        let (gap, length) = (Lengths { low: 1, high: 3 }, Lengths { low: 9, high: 9 });
        let read = |text: &str| session.pieces(&difflow_text::parse_gaps(text).unwrap(), gap, |_| length).unwrap();
        let open = |least, most| Piece::Gap(GapLength { least, most });
        let found = read("a[MASK]b[MASK]");
        let tokens = |ids: &[u32]| Piece::Tokens(ids.to_vec());
        assert_eq!(found.pieces, [tokens(&[1]), tokens(&[3]), open(1, 3), tokens(&[4]), open(9, 9)]);
        assert_eq!((found.end, found.doubt), (Some(length), None));
        let found = read("a[MASK:2]b");
        assert_eq!(found.pieces, [tokens(&[1]), tokens(&[3]), open(2, 2), tokens(&[4]), tokens(&[2])]);
        assert_eq!(found.end, None);
        assert!(read("ä").doubt.unwrap().contains('ä'));
    }
}
