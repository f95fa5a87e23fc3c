//! Templates compiled to tokens: matching words against them and writing them out.

use crate::forms::{FORMS, Kind, Part, Slot};
use crate::lexicon::{self, Class, Gender};
use std::ops::Range;
use std::sync::LazyLock;

/// One token of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Word(&'static str),
    Slot(Slot, Class),
    /// "the kite" or "the red kite": thing slot and colour slot.
    Ref {
        thing: Slot,
        colour: Slot,
    },
}

/// One way to say one kind of sentence.
#[derive(Debug)]
pub struct Template {
    pub kind: Kind,
    pub part: Part,
    pub tokens: Vec<Token>,
    /// The person slot named first: whom a pronoun in the next sentence means. None when two people share that place.
    pub subject: Option<Slot>,
    /// Whether the subject may be a pronoun here.
    pub pronoun: bool,
}

/// The values of a sentence's slots; each is an index into [`Class::words`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slots([Option<u8>; Slot::COUNT]);

impl Slots {
    pub fn get(&self, slot: Slot) -> Option<u8> {
        self.0[slot as usize]
    }

    pub fn set(&mut self, slot: Slot, value: Option<u8>) {
        self.0[slot as usize] = value;
    }
}

/// A place in a text that one slot fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    pub slot: Slot,
    pub class: Class,
    /// Indices of the words it covers, within the sentence.
    pub words: Range<usize>,
}

/// What matching a sentence against a template found.
#[derive(Debug, Clone)]
pub struct Match {
    pub slots: Slots,
    pub pronoun: Option<Gender>,
    pub mentions: Vec<Mention>,
}

/// Every template of the world, compiled once.
pub static TEMPLATES: LazyLock<Vec<Template>> = LazyLock::new(|| {
    FORMS.iter().flat_map(|(kind, part, says)| says.iter().map(|say| compile(*kind, *part, say))).collect()
});

/// The templates of one kind.
pub fn templates_of(kind: Kind) -> impl Iterator<Item = &'static Template> {
    TEMPLATES.iter().filter(move |template| template.kind == kind)
}

fn compile(kind: Kind, part: Part, say: &'static str) -> Template {
    let mut tokens = Vec::new();
    for piece in say.split(' ') {
        let bare = piece.strip_suffix(',').unwrap_or(piece);
        tokens.push(match bare {
            "{p}" => Token::Slot(Slot::P, Class::Person),
            "{q}" => Token::Slot(Slot::Q, Class::Person),
            "{c}" => Token::Slot(Slot::C, Class::Colour),
            "{d}" => Token::Slot(Slot::D, Class::Colour),
            "{t}" => Token::Slot(Slot::T, Class::Thing),
            "{u}" => Token::Slot(Slot::U, Class::Thing),
            "{T}" => Token::Ref { thing: Slot::T, colour: Slot::C },
            "{U}" => Token::Ref { thing: Slot::U, colour: Slot::D },
            "{l}" => Token::Slot(Slot::Place, Class::Place),
            "{n}" => Token::Slot(Slot::Number, Class::Number),
            "{k}" => Token::Slot(Slot::Goods, Class::Goods),
            "{v}" => Token::Slot(Slot::Flock, Class::Flock),
            "{w}" => Token::Slot(Slot::Weather, Class::Weather),
            "{W}" => Token::Slot(Slot::Weather, Class::Cause),
            "{e}" => Token::Slot(Slot::Weather, Class::Effect),
            "{a}" => Token::Slot(Slot::Animal, Class::Animal),
            "{h}" => Token::Slot(Slot::Spot, Class::Spot),
            "{g}" => Token::Slot(Slot::Material, Class::Material),
            word => {
                debug_assert!(!word.contains('{'), "unknown slot in template: {say}");
                Token::Word(word)
            }
        });
        if bare.len() < piece.len() {
            tokens.push(Token::Word(","));
        }
    }
    let first = tokens.iter().position(|token| matches!(token, Token::Slot(_, Class::Person)));
    let shared = first.is_some_and(|i| tokens.get(i + 1) == Some(&Token::Word("and")) && is_person(tokens.get(i + 2)));
    let oblique = first.is_some_and(|i| i > 0 && matches!(tokens[i - 1], Token::Word("of" | "with" | "from" | "to")));
    let subject = match first.map(|i| tokens[i]) {
        Some(Token::Slot(slot, _)) if !shared => Some(slot),
        _ => None,
    };
    Template { kind, part, tokens, subject, pronoun: subject.is_some() && !oblique && part == Part::Body }
}

fn is_person(token: Option<&Token>) -> bool {
    matches!(token, Some(Token::Slot(_, Class::Person)))
}

impl Template {
    /// Matches a whole sentence, given as words with commas apart and the first word in lower case unless it is a name.
    pub fn matches(&self, words: &[&str]) -> Option<Match> {
        // Most templates end on another word: that is cheap to see, and reading a corpus back spends its time here.
        if let (Some(Token::Word(end)), Some(last)) = (self.tokens.last(), words.last())
            && end != last
        {
            return None;
        }
        let mut found = Match { slots: Slots::default(), pronoun: None, mentions: Vec::new() };
        let mut at = 0;
        for token in &self.tokens {
            match *token {
                Token::Word(word) => {
                    if *words.get(at)? != word {
                        return None;
                    }
                    at += 1;
                }
                Token::Slot(slot, class) => {
                    let pronoun =
                        (self.pronoun && self.subject == Some(slot)).then(|| pronoun(words.get(at))).flatten();
                    if pronoun.is_some() {
                        found.pronoun = pronoun;
                        at += 1;
                    } else {
                        at = found.read(slot, class, words, at)?;
                    }
                }
                Token::Ref { thing, colour } => {
                    if *words.get(at)? != "the" {
                        return None;
                    }
                    at += 1;
                    at = found.read(colour, Class::Colour, words, at).unwrap_or(at);
                    at = found.read(thing, Class::Thing, words, at)?;
                }
            }
        }
        (at == words.len()).then_some(found)
    }
}

fn pronoun(word: Option<&&str>) -> Option<Gender> {
    match word {
        Some(&"she") => Some(Gender::She),
        Some(&"he") => Some(Gender::He),
        _ => None,
    }
}

impl Match {
    /// Reads a phrase of the class at `at` into the slot and returns where it ends.
    fn read(&mut self, slot: Slot, class: Class, words: &[&str], at: usize) -> Option<usize> {
        let (value, length) = phrase_at(class, &words[at..])?;
        // A slot said twice in one sentence has to say the same.
        if self.slots.get(slot).is_some_and(|before| before != value) {
            return None;
        }
        self.slots.set(slot, Some(value));
        self.mentions.push(Mention { slot, class, words: at..at + length });
        Some(at + length)
    }
}

fn phrase_at(class: Class, words: &[&str]) -> Option<(u8, usize)> {
    class.words().iter().zip(0u8..).find_map(|(phrase, value)| {
        let length = phrase.split(' ').count();
        (words.len() >= length && phrase.split(' ').zip(words).all(|(a, b)| a == *b)).then_some((value, length))
    })
}

impl Template {
    /// Whether every slot that this wording needs has a value.
    pub fn is_filled_by(&self, slots: &Slots) -> bool {
        self.tokens.iter().all(|token| match *token {
            Token::Word(_) => true,
            Token::Slot(slot, _) | Token::Ref { thing: slot, .. } => slots.get(slot).is_some(),
        })
    }

    /// Writes the sentence without its full stop. Slots without a value are an error of the caller and are left out.
    pub fn write(&self, slots: &Slots, as_pronoun: bool, name_colours: bool) -> String {
        let mut text = String::new();
        let mut put = |word: &str| {
            if !text.is_empty() && word != "," {
                text.push(' ');
            }
            text.push_str(word);
        };
        let value = |slot: Slot, class: Class| slots.get(slot).map_or("", |v| class.words()[usize::from(v)]);
        for token in &self.tokens {
            match *token {
                Token::Word(word) => put(word),
                Token::Slot(slot, Class::Person) if as_pronoun && self.pronoun && self.subject == Some(slot) => {
                    put(slots.get(slot).map_or("", |person| lexicon::gender(person).pronoun()));
                }
                Token::Slot(slot, class) => put(value(slot, class)),
                Token::Ref { thing, colour } => {
                    put("the");
                    if name_colours && slots.get(colour).is_some() {
                        put(value(colour, Class::Colour));
                    }
                    put(value(thing, Class::Thing));
                }
            }
        }
        capitalise(&text)
    }
}

/// The text with its first letter in upper case.
pub fn capitalise(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
