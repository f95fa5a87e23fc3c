//! The syntax of texts with gaps: `Once [MASK:5] there was [MASK] .`

use crate::error::GapError;
use crate::lengths::Lengths;

/// A part of a text with gaps.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// What is given.
    Text(String),
    /// What is to be filled in, by its number of tokens; `None` when it is not given.
    Gap(Option<Lengths>),
}

/// Reads a text with gaps: `[MASK]` is one of unknown length, `[MASK:5]` has 5 tokens, `[MASK:2..6]` 2 to 6. One space before
/// a gap belongs to it: tokenizers make a space part of the word behind it.
///
/// # Errors
/// A `[MASK` that is neither.
pub fn parse_gaps(text: &str) -> Result<Vec<Part>, GapError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("[MASK") {
        let wrong = |end: usize| GapError { found: rest[at..at + end].to_owned() };
        let inside = &rest[at + "[MASK".len()..];
        let end = inside.find(']').ok_or_else(|| wrong(rest[at..].floor_char_boundary(12)))?;
        let whole = "[MASK".len() + end + 1;
        let gap = match inside[..end].strip_prefix(':') {
            Some(length) => Some(read(length).ok_or_else(|| wrong(whole))?),
            None if end == 0 => None,
            None => return Err(wrong(whole)),
        };
        let before = &rest[..at];
        push_text(&mut parts, before.strip_suffix(' ').unwrap_or(before));
        parts.push(Part::Gap(gap));
        rest = &rest[at + whole..];
    }
    push_text(&mut parts, rest);
    Ok(parts)
}

fn read(length: &str) -> Option<Lengths> {
    Lengths::parse(length).or_else(|| {
        let length = length.trim().parse().ok()?;
        Some(Lengths { low: length, high: length })
    })
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn gap(low: usize, high: usize) -> Part {
        Part::Gap(Some(Lengths { low, high }))
    }

    #[test]
    fn gaps_stand_between_texts_and_take_the_space_before_them() {
        let found = parse_gaps("Once [MASK:5] there was [MASK] .").unwrap();
        assert_eq!(found, [text("Once"), gap(5, 5), text(" there was"), Part::Gap(None), text(" .")]);
        assert_eq!(parse_gaps("a[MASK:2..6]b").unwrap(), [text("a"), gap(2, 6), text("b")]);
    }

    #[test]
    fn a_gap_may_stand_alone_at_either_end_or_beside_another() {
        assert_eq!(parse_gaps("[MASK:3] end").unwrap(), [gap(3, 3), text(" end")]);
        assert_eq!(parse_gaps("start [MASK]").unwrap(), [text("start"), Part::Gap(None)]);
        assert_eq!(parse_gaps("[MASK:1][MASK:2]").unwrap(), [gap(1, 1), gap(2, 2)]);
        assert_eq!(parse_gaps("no gap").unwrap(), [text("no gap")]);
        assert_eq!(parse_gaps("").unwrap(), []);
    }

    #[test]
    fn what_is_no_gap_is_named() {
        for wrong in ["a [MASK:x] b", "a [MASK:] b", "[MASKED]", "[MASK:-1]", "[MASK:6..2]", "open [MASK:4"] {
            let error = parse_gaps(wrong).unwrap_err().to_string();
            assert!(error.contains("[MASK:5]") && error.contains("found `[MASK"), "{wrong}: {error}");
        }
        assert_eq!(parse_gaps("[mask] is a word").unwrap(), [text("[mask] is a word")]);
    }

    /// 20,000 texts of pieces of the syntax: read or refused, never a panic, and nothing but gaps and blanks is lost.
    #[test]
    fn no_text_makes_the_parser_panic() {
        let pieces =
            ["[MASK", "]", ":", "5", "..", " ", "é", "漢", "[", "MASK", "99999999999999999999", "-1", "[MASK:3]", "\0"];
        let mut random = difflow_tests::Random::new(1);
        let mut read = 0;
        for _ in 0..20_000 {
            let text: String = (0..random.below(12)).map(|_| pieces[random.below(pieces.len())]).collect();
            let Ok(parts) = parse_gaps(&text) else { continue };
            read += 1;
            let kept: usize = parts.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 0 }).sum();
            assert!(kept <= text.len() && (text.contains("[MASK") || kept == text.len()), "{text:?}: {parts:?}");
        }
        assert!((1000..19_000).contains(&read), "{read} of 20,000 texts were read");
    }
}
