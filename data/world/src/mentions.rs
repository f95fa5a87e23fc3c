//! Where a text names a fact, and putting another word in its place.

use crate::forms::{Part, Slot};
use crate::lexicon::Class;
use crate::parse::{self, Sentence};
use crate::template::capitalise;
use std::ops::Range;

/// One place in a story where a slot's word stands.
#[derive(Debug, Clone)]
pub struct Named {
    pub part: Part,
    /// 0 is the title.
    pub sentence: usize,
    pub slot: Slot,
    pub class: Class,
    pub value: u8,
    /// Bytes of the text.
    pub bytes: Range<usize>,
    /// Byte where the sentence ends, its full stop included.
    pub sentence_end: usize,
    /// The word opens its sentence, so it is capitalised.
    pub opens: bool,
}

/// Every named fact of a text that can be read, in order. Pronouns are not names.
pub fn mentions(text: &str) -> Vec<Named> {
    let (reading, _) = parse::read(text, false);
    let mut found = Vec::new();
    let titles = reading.title.iter().map(|sentence| (Part::Title, sentence));
    let bodies = reading.body.iter().map(|sentence| (Part::Body, sentence));
    let endings = reading.ending.iter().map(|sentence| (Part::Ending, sentence));
    for (part, sentence) in titles.chain(bodies).chain(endings) {
        found.extend(sentence.mentions.iter().filter_map(|mention| {
            let value = sentence.slots.get(mention.slot)?;
            Some(Named {
                part,
                sentence: sentence.number,
                slot: mention.slot,
                class: mention.class,
                value,
                bytes: span(sentence, &mention.words),
                sentence_end: sentence.words.last()?.end + usize::from(part != Part::Title),
                opens: mention.words.start == 0,
            })
        }));
    }
    found
}

fn span(sentence: &Sentence, words: &Range<usize>) -> Range<usize> {
    sentence.words[words.start].start..sentence.words[words.end - 1].end
}

impl Named {
    /// The phrase that another value of the class would put here.
    pub fn phrase(&self, value: u8) -> String {
        let phrase = self.class.words()[usize::from(value)];
        if self.opens { capitalise(phrase) } else { phrase.to_owned() }
    }

    /// All values of the class but the one that stands here.
    pub fn others(&self) -> impl Iterator<Item = u8> {
        let own = self.value;
        (0..self.class.words().len() as u8).filter(move |value| *value != own)
    }
}

/// The text with the bytes of `range` replaced.
pub fn replaced(text: &str, range: &Range<usize>, with: &str) -> String {
    format!("{}{}{}", &text[..range.start], with, &text[range.end..])
}
