//! The state of the world while a tale is told, and how its sentences are put into words.

use super::{closing, episodes, settle};
use crate::dice::Dice;
use crate::forms::{Kind, Slot};
use crate::lexicon::Class;
use crate::template::{Slots, templates_of};

/// A thing in the tale. Its owner has it in hand unless `busy`.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub thing: u8,
    pub colour: u8,
    pub owner: u8,
    /// Part of an open matter: nothing else may happen to it.
    pub busy: bool,
    /// Where its owner has been with it.
    pub places: Vec<u8>,
}

/// Something begun that has to be settled before the tale ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Matter {
    Loan { from: u8, to: u8, thing: u8 },
    Lost { owner: u8, thing: u8 },
    Hidden { owner: u8, seeker: u8, thing: u8, spot: u8 },
    Broken { owner: u8, thing: u8 },
    Wish { person: u8, thing: u8 },
}

impl Matter {
    pub fn involves(&self, person: u8) -> bool {
        match *self {
            Matter::Loan { from, to, .. } => from == person || to == person,
            Matter::Hidden { owner, seeker, .. } => owner == person || seeker == person,
            Matter::Lost { owner, .. } | Matter::Broken { owner, .. } => owner == person,
            Matter::Wish { person: who, .. } => who == person,
        }
    }
}

pub(super) struct Tale<'a> {
    pub dice: &'a mut Dice,
    pub hero: u8,
    /// Who is with the hero.
    pub friend: Option<u8>,
    pub people: Vec<u8>,
    pub here: u8,
    pub been: Vec<u8>,
    pub items: Vec<Item>,
    pub matters: Vec<Matter>,
    /// The goods of the tale, and (person, count) of each who has some.
    pub goods: Option<u8>,
    pub counts: Vec<(u8, u8)>,
    pub weather: Option<u8>,
    pub coins: Option<u8>,
    pub done: Vec<episodes::Episode>,
    /// True titles and last lines, as they come up.
    pub titles: Vec<(Kind, Slots)>,
    pub endings: Vec<(Kind, Slots)>,
    paragraphs: Vec<Vec<String>>,
    subject: Option<u8>,
}

impl Tale<'_> {
    /// Tells one tale; None when it came to nothing that a last line could name.
    pub fn tell(dice: &mut Dice) -> Option<String> {
        let hero = dice.below(Class::Person.words().len()) as u8;
        let here = dice.below(Class::Place.words().len()) as u8;
        let target = usize::from(dice.between(4, 5));
        let mut tale = Tale {
            dice,
            hero,
            friend: None,
            people: vec![hero],
            here,
            been: vec![here],
            items: Vec::new(),
            matters: Vec::new(),
            goods: None,
            counts: Vec::new(),
            weather: None,
            coins: None,
            done: Vec::new(),
            titles: Vec::new(),
            endings: Vec::new(),
            paragraphs: vec![Vec::new()],
            subject: None,
        };
        episodes::begin(&mut tale);
        while tale.length() < target || !tale.matters.is_empty() {
            let late = tale.length() + 2 * tale.matters.len() >= target;
            if !tale.matters.is_empty() && (late || tale.dice.chance(60)) {
                settle::settle_one(&mut tale);
            } else if !episodes::play_one(&mut tale) {
                if tale.matters.is_empty() {
                    break;
                }
                settle::settle_one(&mut tale);
            }
            if tale.paragraphs.len() < 3 && tale.length() + 2 < target && tale.dice.chance(15) {
                tale.paragraphs.push(Vec::new());
                tale.subject = None;
            }
        }
        let (title, ending) = closing::close(&mut tale)?;
        let mut lines = vec![title];
        lines.extend(tale.paragraphs.iter().filter(|p| !p.is_empty()).map(|sentences| sentences.join(" ")));
        lines.push(ending + ".");
        Some(lines.join("\n"))
    }

    /// Sentences of the body so far.
    fn length(&self) -> usize {
        self.paragraphs.iter().map(Vec::len).sum()
    }

    /// Says a sentence of the body in one of the ways that its slots allow.
    pub fn say(&mut self, kind: Kind, slots: &[(Slot, u8)]) {
        let slots = filled(slots);
        let forms: Vec<_> = templates_of(kind).filter(|form| form.is_filled_by(&slots)).collect();
        let Some(form) = self.dice.pick(&forms) else { return };
        let subject = form.subject.and_then(|slot| slots.get(slot));
        let as_pronoun = subject.is_some() && subject == self.subject && self.dice.chance(60);
        let colours = self.dice.chance(35);
        let text = form.write(&slots, as_pronoun, colours) + ".";
        if let Some(paragraph) = self.paragraphs.last_mut() {
            paragraph.push(text);
        }
        let names = form.tokens.iter().any(|token| matches!(token, crate::template::Token::Slot(_, Class::Person)));
        if names {
            self.subject = subject;
        }
    }

    /// Says it with the given probability.
    pub fn maybe(&mut self, percent: usize, kind: Kind, slots: &[(Slot, u8)]) {
        if self.dice.chance(percent) {
            self.say(kind, slots);
        }
    }

    pub fn title(&mut self, kind: Kind, slots: &[(Slot, u8)]) {
        self.titles.push((kind, filled(slots)));
    }

    pub fn ending(&mut self, kind: Kind, slots: &[(Slot, u8)]) {
        self.endings.push((kind, filled(slots)));
    }

    /// A word of the class that is not among `taken`.
    pub fn fresh(&mut self, class: Class, taken: &[u8]) -> u8 {
        let free: Vec<u8> = (0..class.words().len() as u8).filter(|value| !taken.contains(value)).collect();
        self.dice.pick(&free).unwrap_or_default()
    }

    pub fn fresh_colour(&mut self) -> u8 {
        let taken: Vec<u8> = self.items.iter().map(|item| item.colour).collect();
        self.fresh(Class::Colour, &taken)
    }

    /// A thing that the tale has neither shown nor wished for.
    pub fn fresh_thing(&mut self) -> u8 {
        let mut taken: Vec<u8> = self.items.iter().map(|item| item.thing).collect();
        taken.extend(self.matters.iter().filter_map(|matter| match matter {
            Matter::Wish { thing, .. } => Some(*thing),
            _ => None,
        }));
        self.fresh(Class::Thing, &taken)
    }

    pub fn item(&self, thing: u8) -> Option<&Item> {
        self.items.iter().find(|item| item.thing == thing)
    }

    pub fn item_mut(&mut self, thing: u8) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.thing == thing)
    }

    /// The slots of a reference to a thing.
    pub fn the(&self, thing: u8) -> [(Slot, u8); 2] {
        [(Slot::T, thing), (Slot::C, self.item(thing).map_or(0, |item| item.colour))]
    }

    /// Somebody who is here: the hero or the friend.
    pub fn somebody(&mut self) -> u8 {
        match self.friend {
            Some(friend) if self.dice.chance(40) => friend,
            _ => self.hero,
        }
    }

    /// The other of the two who are here.
    pub fn other(&self, person: u8) -> Option<u8> {
        if person == self.hero { self.friend } else { Some(self.hero) }
    }

    /// A thing in hand of somebody who is here, free for something to happen to it.
    pub fn free_item(&mut self, fits: impl Fn(&Item) -> bool) -> Option<Item> {
        let free: Vec<usize> = (0..self.items.len())
            .filter(|i| !self.items[*i].busy && self.is_here(self.items[*i].owner) && fits(&self.items[*i]))
            .collect();
        self.dice.pick(&free).map(|i| self.items[i].clone())
    }

    pub fn is_here(&self, person: u8) -> bool {
        person == self.hero || self.friend == Some(person)
    }

    /// A new thing in somebody's hand.
    pub fn gains(&mut self, owner: u8, thing: u8, colour: u8) {
        self.items.push(Item { thing, colour, owner, busy: false, places: vec![self.here] });
    }

    /// Hands a thing over for good.
    pub fn hand_over(&mut self, thing: u8, to: u8) {
        let here = self.here;
        if let Some(item) = self.item_mut(thing) {
            item.owner = to;
            item.places = vec![here];
        }
    }

    /// Moves hero, friend or both; whoever does not come along is left behind for good.
    pub fn walk(&mut self, place: u8) {
        self.here = place;
        self.been.push(place);
        let (hero, friend) = (self.hero, self.friend);
        for item in
            self.items.iter_mut().filter(|item| !item.busy && (item.owner == hero || Some(item.owner) == friend))
        {
            item.places.push(place);
        }
    }
}

pub(super) fn filled(values: &[(Slot, u8)]) -> Slots {
    let mut slots = Slots::default();
    for (slot, value) in values {
        slots.set(*slot, Some(*value));
    }
    slots
}
