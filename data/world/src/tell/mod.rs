//! The story generator: plays out a little world and tells what happens.
//!
//! A tale is built from [`episodes`] chosen at random among those the state of the world allows. Some open a matter (a loan, a loss, a
//! wish) that is settled later, maybe after other episodes. When enough has been told and nothing is open, a last
//! line and a title are chosen among those that are true ([`closing`]).

mod closing;
mod episodes;
mod scenes;
mod settle;
mod tale;

use crate::dice::Dice;
use tale::Tale;

/// Fewest and most words of a story, title and last line included.
pub const WORDS: std::ops::RangeInclusive<usize> = 60..=110;

/// The purposes for which stories are made; each has its own random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    Train,
    Heldout,
    /// Single stories from the command line and in tests.
    Sample,
    /// Stories of instructions to train on.
    Asked,
    /// Stories of instructions held out.
    AskedHeldout,
}

impl Split {
    fn stream(self) -> u64 {
        match self {
            Split::Train => 1,
            Split::Heldout => 2,
            Split::Sample => 3,
            Split::Asked => 4,
            Split::AskedHeldout => 5,
        }
    }
}

/// Tells one story. The same arguments give the same text on every machine.
///
/// The text is a title line, one to three lines of body and a last line, joined by `\n`, with no line end after the last.
pub fn tell(seed: u64, split: Split, index: u64) -> String {
    let mut dice = Dice::new(seed, split.stream(), index);
    loop {
        // The dice roll on, so the next attempt is another story.
        if let Some(text) = Tale::tell(&mut dice)
            && WORDS.contains(&text.split_whitespace().count())
        {
            return text;
        }
    }
}
