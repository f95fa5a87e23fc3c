//! Reading a story back: lines, sentences, words, and what each sentence says.
//!
//! The reader knows the shape of a story and the sentence forms; it knows nothing of how the generator chose them.
//! A text is read only if it is byte for byte what its words make: one space between words, a full stop after each sentence, no other mark.

use crate::check::{Problem, ProblemKind};
use crate::forms::{Kind, Part};
use crate::lexicon::{Class, Gender};
use crate::template::{Mention, Slots, TEMPLATES};
use std::ops::Range;

/// One sentence that was read.
#[derive(Debug, Clone)]
pub struct Sentence {
    pub kind: Kind,
    pub slots: Slots,
    /// Set when the subject is a pronoun; the slot it stands for is [`Sentence::subject`] and is still empty.
    pub pronoun: Option<Gender>,
    pub subject: Option<crate::forms::Slot>,
    pub mentions: Vec<Mention>,
    /// Byte range of each word in the whole text.
    pub words: Vec<Range<usize>>,
    /// Line within the text, 0 is the title.
    pub line: usize,
    /// 0 for the title, then counting on to the last line.
    pub number: usize,
}

/// A text that was read: title, body in order, last line (missing when the text breaks off before one).
#[derive(Debug)]
pub struct Reading {
    pub title: Option<Sentence>,
    pub body: Vec<Sentence>,
    pub ending: Option<Sentence>,
}

/// Reads a text. `open` says that the text may stop after any sentence of the body.
pub fn read(text: &str, open: bool) -> (Reading, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut reading = Reading { title: None, body: Vec::new(), ending: None };
    let mut lines = Vec::new();
    let mut at = 0;
    for line in text.split('\n') {
        lines.push((at, line));
        at += line.len() + 1;
    }
    let last = lines.len() - 1;
    if last < 2 && !open {
        problems.push(Problem::new(0, ProblemKind::Shape, "a story is a title, a body and a last line"));
    }
    let mut count = 0;
    for (number, (start, line)) in lines.iter().enumerate() {
        if number == 0 {
            match sentence(line, *start, (0, 0), Part::Title) {
                Ok(title) => reading.title = Some(title),
                Err(message) => problems.push(Problem::new(0, ProblemKind::Unknown, message)),
            }
            continue;
        }
        let part = if number == last && !open { Part::Ending } else { Part::Body };
        let (pieces, rest) = sentences(line, *start);
        if !rest.is_empty() {
            problems.push(Problem::new(count + 1, ProblemKind::Shape, format!("no full stop after \"{rest}\"")));
        }
        if pieces.is_empty() && rest.is_empty() {
            problems.push(Problem::new(count + 1, ProblemKind::Shape, "an empty line"));
        }
        if part == Part::Ending && pieces.len() > 1 {
            problems.push(Problem::new(count + 1, ProblemKind::Shape, "more than one sentence on the last line"));
        }
        for (offset, piece) in pieces {
            count += 1;
            match sentence(piece, offset, (number, count), part) {
                Ok(read) if part == Part::Ending => reading.ending = Some(read),
                Ok(read) => reading.body.push(read),
                Err(message) => problems.push(Problem::new(count, ProblemKind::Unknown, message)),
            }
        }
    }
    (reading, problems)
}

/// Splits a line into sentences with their offsets; what follows the last full stop comes second.
fn sentences(line: &str, start: usize) -> (Vec<(usize, &str)>, &str) {
    let mut pieces = Vec::new();
    let mut from = 0;
    while let Some(length) = line[from..].find('.') {
        pieces.push((start + from, &line[from..from + length]));
        from += length + 1;
        // Exactly one space between sentences; anything else becomes part of the next piece and is refused there.
        if line[from..].starts_with(' ') && from + 1 < line.len() {
            from += 1;
        } else {
            break;
        }
    }
    (pieces, &line[from..])
}

fn sentence(piece: &str, start: usize, (line, number): (usize, usize), part: Part) -> Result<Sentence, String> {
    let refused = |why: &str| format!("{why}: \"{piece}\"");
    let mut words: Vec<(Range<usize>, &str)> = Vec::new();
    let mut at = start;
    for word in piece.split(' ') {
        let bare = word.strip_suffix(',').unwrap_or(word);
        words.push((at..at + bare.len(), bare));
        if bare.len() < word.len() {
            words.push((at + bare.len()..at + word.len(), ","));
        }
        at += word.len() + 1;
    }
    let Some((_, first)) = words.first().cloned() else { return Err(refused("empty sentence")) };
    if !first.starts_with(|letter: char| letter.is_ascii_uppercase()) {
        return Err(refused("a sentence starts with a capital letter"));
    }
    let lowered = first.to_ascii_lowercase();
    let first = if Class::Person.words().contains(&first) { first } else { lowered.as_str() };
    let mut plain: Vec<&str> = words.iter().map(|(_, word)| *word).collect();
    plain[0] = first;
    TEMPLATES
        .iter()
        .filter(|template| template.part == part)
        .find_map(|template| template.matches(&plain).map(|found| (template, found)))
        .map(|(template, found)| Sentence {
            kind: template.kind,
            slots: found.slots,
            pronoun: found.pronoun,
            subject: template.subject,
            mentions: found.mentions,
            words: words.into_iter().map(|(range, _)| range).collect(),
            line,
            number,
        })
        .ok_or_else(|| refused("not a sentence of this world"))
}
