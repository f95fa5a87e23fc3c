//! Gaps for infilling whose words only both sides together determine.
//!
//! A span of a story is a gap if (1) any other words of the same classes in its place make the checker refuse the story, and (2) the text before it
//! leaves it open: its words do not occur there, and at least [`LEAST_CHOICES`] fillings are consistent up to the end of the sentence.

use crate::check::{check, check_beginning};
use crate::dice::Dice;
use crate::forms::{Part, Slot};
use crate::lexicon::Class;
use crate::mentions::{Named, mentions, replaced};
use difflow_text::Gap;
use std::collections::BTreeMap;
use std::ops::Range;

/// How many fillings the left side has to leave open.
pub const LEAST_CHOICES: usize = 4;

/// A span of one or two named facts.
struct Span {
    parts: Vec<Named>,
}

impl Span {
    fn bytes(&self) -> Range<usize> {
        self.parts[0].bytes.start..self.parts[self.parts.len() - 1].bytes.end
    }

    /// The class that the span counts under.
    fn class(&self) -> Class {
        self.parts[0].class
    }

    /// Every filling of the same classes but the one that stands there.
    fn others(&self) -> Vec<String> {
        let [first, rest @ ..] = self.parts.as_slice() else { return Vec::new() };
        let all = |named: &Named| (0..named.class.words().len() as u8).map(|v| named.phrase(v)).collect::<Vec<_>>();
        match rest {
            [] => first.others().map(|value| first.phrase(value)).collect(),
            [second, ..] => {
                let own = (first.phrase(first.value), second.phrase(second.value));
                let pairs = all(first).into_iter().flat_map(|a| all(second).into_iter().map(move |b| (a.clone(), b)));
                pairs.filter(|pair| *pair != own).map(|(a, b)| format!("{a} {b}")).collect()
            }
        }
    }

    fn is_gap(&self, text: &str) -> bool {
        let bytes = self.bytes();
        let left = &text[..bytes.start];
        let fresh = text[bytes.clone()].split(' ').all(|word| {
            let known = |other: &str| other.trim_matches(['.', ',']).eq_ignore_ascii_case(word);
            !left.split([' ', '\n']).any(known)
                || ["in", "on", "the", "under", "behind", "beside", "between"].contains(&word)
        });
        if !fresh {
            return false;
        }
        let others = self.others();
        let end = self.parts[0].sentence_end;
        let beginning = &text[..end];
        let open = others.iter().filter(|other| check_beginning(&replaced(beginning, &bytes, other)).is_ok());
        open.take(LEAST_CHOICES - 1).count() == LEAST_CHOICES - 1
            && others.iter().all(|other| check(&replaced(text, &bytes, other)).is_err())
    }
}

/// Every span of the body that might be a gap: each named fact, and a colour or number together with what it belongs to.
fn spans(text: &str) -> Vec<Span> {
    let named: Vec<Named> =
        mentions(text).into_iter().filter(|named| named.part == Part::Body && !named.opens_as_word()).collect();
    let mut spans = Vec::new();
    for (i, one) in named.iter().enumerate() {
        if let Some(two) = named.get(i + 1)
            && matches!(
                (one.slot, two.slot),
                (Slot::C, Slot::T) | (Slot::D, Slot::U) | (Slot::Number, Slot::Goods | Slot::Flock)
            )
            && two.bytes.start == one.bytes.end + 1
        {
            spans.push(Span { parts: vec![one.clone(), two.clone()] });
        }
        spans.push(Span { parts: vec![one.clone()] });
    }
    spans
}

impl Named {
    /// A capitalised common word is another token than elsewhere: no gap.
    fn opens_as_word(&self) -> bool {
        self.opens && self.class != Class::Person
    }
}

/// All gaps of a story. Slow (hundreds of checks); for a corpus use [`choose_gaps`].
pub fn gaps(id: u64, text: &str) -> Vec<Gap> {
    spans(text).iter().filter(|span| span.is_gap(text)).map(|span| cut(id, text, &span.bytes())).collect()
}

fn cut(id: u64, text: &str, bytes: &Range<usize>) -> Gap {
    let start = bytes.start - usize::from(text[..bytes.start].ends_with(' '));
    Gap {
        id,
        left: text[..start].to_owned(),
        answer: text[start..bytes.end].to_owned(),
        right: text[bytes.end..].to_owned(),
    }
}

/// Chooses up to `count` gaps, at most one a story, spread over the classes of words.
pub fn choose_gaps(stories: &[String], count: usize, seed: u64) -> Vec<Gap> {
    let mut chosen = Vec::new();
    let mut used: BTreeMap<Class, usize> = BTreeMap::new();
    for (id, text) in (0u64..).zip(stories) {
        if chosen.len() == count {
            break;
        }
        let mut dice = Dice::new(seed, 4, id);
        let mut candidates = spans(text);
        dice.shuffle(&mut candidates);
        // The class with the fewest gaps so far goes first; the order is stable, so the shuffle decides among equals.
        candidates.sort_by_key(|span| used.get(&span.class()).copied().unwrap_or(0));
        if let Some(span) = candidates.iter().find(|span| span.is_gap(text)) {
            *used.entry(span.class()).or_insert(0) += 1;
            chosen.push(cut(id, text, &span.bytes()));
        }
    }
    chosen
}
