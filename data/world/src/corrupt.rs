//! Single-fact corruptions, to measure how much of a wrong story the checker sees.

use crate::dice::Dice;
use crate::lexicon::Class;
use crate::mentions::{Named, mentions, replaced};

/// A story with one word of one fact exchanged for another of its class.
#[derive(Debug, Clone)]
pub struct Corruption {
    pub text: String,
    pub class: Class,
    /// The same word stands elsewhere in the story too, so that another mention fixes the fact.
    pub fixed_elsewhere: bool,
}

/// Exchanges one fact, drawn at random; None for a text that names none.
pub fn corrupt(text: &str, dice: &mut Dice) -> Option<Corruption> {
    let named = mentions(text);
    let places: Vec<usize> = (0..named.len()).collect();
    let one: &Named = &named[dice.pick(&places)?];
    let others: Vec<u8> = one.others().collect();
    let other = dice.pick(&others)?;
    let same = |named: &&Named| named.class == one.class && named.value == one.value;
    Some(Corruption {
        text: replaced(text, &one.bytes, &one.phrase(other)),
        class: one.class,
        fixed_elsewhere: named.iter().filter(same).count() > 1,
    })
}
