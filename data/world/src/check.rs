//! The checker: is a text a well-formed story of the world, and do its facts agree?

use crate::forms::Kind;
use crate::judge;
use crate::parse;
use std::fmt;

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// 0 is the title, 1 the first sentence of the body, and so on to the last line.
    pub sentence: usize,
    pub kind: ProblemKind,
    pub message: String,
}

/// The kinds of problems, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// Lines, full stops, title or last line missing, too short.
    Shape,
    /// A sentence, or a word, that the world does not know.
    Unknown,
    /// A sentence that the ones before it rule out.
    Contradiction,
    /// Something begun (a loss, a loan, a wish, ...) that the story never ends.
    Unresolved,
    /// The title names what does not happen.
    Title,
    /// The last line names what did not happen.
    Ending,
}

impl ProblemKind {
    /// Every kind, in the order of reports.
    pub const ALL: [ProblemKind; 6] = [
        ProblemKind::Shape,
        ProblemKind::Unknown,
        ProblemKind::Contradiction,
        ProblemKind::Unresolved,
        ProblemKind::Title,
        ProblemKind::Ending,
    ];
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProblemKind::Shape => "shape",
            ProblemKind::Unknown => "unknown sentence",
            ProblemKind::Contradiction => "contradiction",
            ProblemKind::Unresolved => "unresolved",
            ProblemKind::Title => "title",
            ProblemKind::Ending => "last line",
        })
    }
}

impl Problem {
    pub(crate) fn new(sentence: usize, kind: ProblemKind, message: impl Into<String>) -> Problem {
        Problem { sentence, kind, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sentence {
            0 => write!(f, "title: {}: {}", self.kind, self.message),
            n => write!(f, "sentence {n}: {}: {}", self.kind, self.message),
        }
    }
}

/// What a good story turned out to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Words of the whole text, title and last line included.
    pub words: usize,
    /// What happened, sentence by sentence: title, body, last line.
    pub kinds: Vec<Kind>,
    pub people: Vec<&'static str>,
    /// Colour and name of each thing as they are at the end, and who has it.
    pub things: Vec<(&'static str, &'static str, Option<&'static str>)>,
}

/// Words of a story, title and last line included. Shorter texts would be consistent for want of facts.
pub const WORDS: std::ops::RangeInclusive<usize> = 50..=180;

/// Reads a whole story back and verifies every fact in it.
///
/// The text is the title, one or more lines of body, and the last line, separated by `\n`, as in the `text` column of
/// `data/tiny/*.parquet`. White space at either end is ignored, nothing else is.
///
/// # Errors
/// Every problem found, in the order of the text.
pub fn check(text: &str) -> Result<Facts, Vec<Problem>> {
    let text = text.trim();
    let (reading, mut problems) = parse::read(text, false);
    let words = text.split_whitespace().count();
    if !WORDS.contains(&words) {
        let message = format!("{words} words, a story has {} to {}", WORDS.start(), WORDS.end());
        problems.push(Problem::new(0, ProblemKind::Shape, message));
    }
    let (facts, found) = judge::whole(&reading, words);
    problems.extend(found);
    problems.sort_by_key(|problem| problem.sentence);
    if problems.is_empty() { Ok(facts) } else { Err(problems) }
}

/// Reads the beginning of a story, up to the end of some sentence, and says what already contradicts itself.
///
/// Things still open (a loss not yet made good, a title not yet justified) are no problem here.
///
/// # Errors
/// Every problem found, in the order of the text.
pub fn check_beginning(text: &str) -> Result<(), Vec<Problem>> {
    let (reading, mut problems) = parse::read(text.trim(), true);
    problems.extend(judge::beginning(&reading));
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
