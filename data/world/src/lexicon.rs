//! The closed vocabulary of the little world: which words exist and to which class each belongs.
//!
//! Names, colours, things and places are short and frequent on purpose, so that the tokenizer gives each of them one token.

/// A class of words that may stand in for one another in a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Person,
    Colour,
    Thing,
    Place,
    Number,
    Goods,
    Flock,
    /// The adjective of a weather ("rainy"); same index as [`Class::Cause`] and [`Class::Effect`].
    Weather,
    /// The noun of a weather ("rain").
    Cause,
    /// What a weather does to a person ("got wet").
    Effect,
    Animal,
    Spot,
    Material,
}

/// What a pronoun says about the person it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gender {
    She,
    He,
}

impl Gender {
    /// The subject pronoun, lower case.
    pub fn pronoun(self) -> &'static str {
        match self {
            Gender::She => "she",
            Gender::He => "he",
        }
    }
}

impl Class {
    /// Every class, in the order used by statistics.
    pub const ALL: [Class; 13] = [
        Class::Person,
        Class::Colour,
        Class::Thing,
        Class::Place,
        Class::Number,
        Class::Goods,
        Class::Flock,
        Class::Weather,
        Class::Cause,
        Class::Effect,
        Class::Animal,
        Class::Spot,
        Class::Material,
    ];

    /// The phrases of the class; the index into this list is the value of a slot.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Class::Person => PEOPLE,
            Class::Colour => COLOURS,
            Class::Thing => THINGS,
            Class::Place => PLACES,
            Class::Number => NUMBERS,
            Class::Goods => GOODS,
            Class::Flock => FLOCKS,
            Class::Weather => WEATHERS,
            Class::Cause => CAUSES,
            Class::Effect => EFFECTS,
            Class::Animal => ANIMALS,
            Class::Spot => SPOTS,
            Class::Material => MATERIALS,
        }
    }

    /// The word that stands for the class in a skeleton (see [`crate::skeleton`]).
    pub fn label(self) -> &'static str {
        match self {
            Class::Person => "PERSON",
            Class::Colour => "COLOUR",
            Class::Thing => "THING",
            Class::Place => "PLACE",
            Class::Number => "NUMBER",
            Class::Goods => "GOODS",
            Class::Flock => "FLOCK",
            Class::Weather => "WEATHER",
            Class::Cause => "CAUSE",
            Class::Effect => "EFFECT",
            Class::Animal => "ANIMAL",
            Class::Spot => "SPOT",
            Class::Material => "MATERIAL",
        }
    }
}

/// The first [`GIRLS`] names are girls', the rest boys'.
const PEOPLE: &[&str] = &["Mia", "Anna", "Lily", "Rosa", "Nora", "Kate", "Tom", "Ben", "Max", "Sam", "Leo", "Jack"];
const GIRLS: u8 = 6;

const COLOURS: &[&str] = &["red", "blue", "green", "white", "black", "pink", "yellow", "gray"];

/// The first [`STURDY`] things can break, be mended and be painted.
const THINGS: &[&str] =
    &["kite", "drum", "boat", "lamp", "doll", "bell", "box", "cart", "chair", "ball", "hat", "book", "coat", "bag"];
const STURDY: u8 = 9;

/// The first [`SHOPS`] places are where things are bought.
const PLACES: &[&str] =
    &["market", "shop", "fair", "park", "school", "river", "hill", "farm", "garden", "beach", "forest", "mill"];
const SHOPS: u8 = 3;

/// Index i is the number i + 2.
const NUMBERS: &[&str] = &["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
/// The largest number the world has a word for.
pub const MOST: u8 = 10;
/// The smallest number the world has a word for.
pub const LEAST: u8 = 2;

/// The first [`FOODS`] goods can be eaten.
const GOODS: &[&str] = &["apples", "pears", "nuts", "buns", "shells", "stones", "roses", "cards"];
const FOODS: u8 = 4;

const FLOCKS: &[&str] = &["ducks", "hens", "frogs", "birds", "bees", "horses"];

const WEATHERS: &[&str] = &["rainy", "windy", "snowy", "sunny", "foggy"];
const CAUSES: &[&str] = &["rain", "wind", "snow", "sun", "fog"];
const EFFECTS: &[&str] = &["got wet", "could not walk fast", "had cold hands", "felt very warm", "could not see far"];
/// The weather that blows things away.
pub const WIND: u8 = 1;

const ANIMALS: &[&str] = &["dog", "cat", "goat", "fox", "crow", "monkey"];

/// Each begins with another word: which one it is shows at once.
const SPOTS: &[&str] =
    &["under the bench", "behind the door", "in the grass", "on the roof", "beside the well", "between the rocks"];

const MATERIALS: &[&str] = &["glue", "string", "tape", "wire", "wax"];

/// Whether a person is spoken of as "she" or "he".
pub fn gender(person: u8) -> Gender {
    if person < GIRLS { Gender::She } else { Gender::He }
}

/// Whether a thing can break, be mended and be painted.
pub fn is_sturdy(thing: u8) -> bool {
    thing < STURDY
}

/// Whether things are sold at a place.
pub fn is_shop(place: u8) -> bool {
    place < SHOPS
}

/// Whether goods can be eaten.
pub fn is_food(goods: u8) -> bool {
    goods < FOODS
}

/// The number a slot value stands for.
pub fn number(value: u8) -> u8 {
    value + LEAST
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_phrase_belongs_to_two_classes() {
        let mut seen = BTreeSet::new();
        for class in Class::ALL {
            for phrase in class.words() {
                assert!(seen.insert(*phrase), "{phrase} is in two classes");
            }
        }
    }

    #[test]
    fn weather_cause_and_effect_have_one_entry_each() {
        assert_eq!(WEATHERS.len(), CAUSES.len());
        assert_eq!(WEATHERS.len(), EFFECTS.len());
    }
}
