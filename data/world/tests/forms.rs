//! The sentence forms mean one thing each.
#![allow(clippy::unwrap_used)]

use difflow_world::dice::Dice;
use difflow_world::lexicon::Class;
use difflow_world::template::{Slots, TEMPLATES, Token};

/// Random values in all slots that the tokens need.
fn filled(tokens: &[Token], dice: &mut Dice) -> Slots {
    let mut slots = Slots::default();
    for token in tokens {
        let wanted: &[_] = match token {
            Token::Word(_) => &[],
            Token::Slot(slot, class) => &[(*slot, *class)],
            Token::Ref { thing, colour } => &[(*thing, Class::Thing), (*colour, Class::Colour)],
        };
        for (slot, class) in wanted {
            slots.set(*slot, Some(dice.below(class.words().len()) as u8));
        }
    }
    slots
}

#[test]
fn every_sentence_can_be_read_in_one_way_only() {
    let mut dice = Dice::new(7, 7, 7);
    for template in TEMPLATES.iter() {
        for round in 0..8 {
            let slots = filled(&template.tokens, &mut dice);
            let said = template.write(&slots, round % 2 == 0, true);
            let said = said.replace(',', " ,");
            let mut words: Vec<String> = said.split(' ').map(str::to_owned).collect();
            if !Class::Person.words().contains(&words[0].as_str()) {
                words[0] = words[0].to_lowercase();
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let own = template.matches(&words).unwrap_or_else(|| panic!("{said} is not read as it was written"));
            assert!(own.slots == slots || own.pronoun.is_some(), "{said}");
            let readings =
                TEMPLATES.iter().filter(|other| other.part == template.part && other.matches(&words).is_some());
            assert_eq!(readings.count(), 1, "{said}");
        }
    }
}
