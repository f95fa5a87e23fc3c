//! The checker's own simulation of the world: it follows a story that was read and notes what cannot be.
//!
//! It shares words and sentence forms with the generator, and nothing else: no rule here asks how a story was made.

mod closing;
mod counts;
mod missing;
mod people;
mod things;
mod work;
mod world;

use crate::check::{Facts, Problem, ProblemKind};
use crate::forms::{Kind, Slot};
use crate::lexicon::{self, Class};
use crate::parse::{Reading, Sentence};
use crate::template::Slots;
use world::World;

/// Judges a whole story.
pub fn whole(reading: &Reading, words: usize) -> (Facts, Vec<Problem>) {
    let mut world = World::default();
    world.follow(&reading.body);
    world.close(reading);
    let word = |class: Class, value: u8| class.words()[usize::from(value)];
    let sentences = reading.title.iter().chain(&reading.body).chain(&reading.ending);
    let facts = Facts {
        words,
        kinds: sentences.map(|sentence| sentence.kind).collect(),
        people: world.people.keys().map(|person| word(Class::Person, *person)).collect(),
        things: (world.objects.iter())
            .map(|(thing, object)| {
                let holder = object.holder.map(|person| word(Class::Person, person));
                (word(Class::Colour, object.colour), word(Class::Thing, *thing), holder)
            })
            .collect(),
    };
    (facts, world.problems)
}

/// Judges the beginning of a story: only what later sentences cannot put right.
pub fn beginning(reading: &Reading) -> Vec<Problem> {
    let mut world = World::default();
    world.follow(&reading.body);
    world.problems
}

/// A sentence whose pronoun has been resolved: slots read through it are what the sentence says.
struct Said<'a> {
    sentence: &'a Sentence,
    pronoun: Option<u8>,
}

impl Said<'_> {
    fn get(&self, slot: Slot) -> Option<u8> {
        match self.pronoun {
            Some(person) if self.sentence.subject == Some(slot) => Some(person),
            _ => self.sentence.slots.get(slot),
        }
    }

    /// A slot that every wording of this kind has.
    fn must(&self, slot: Slot) -> u8 {
        self.get(slot).unwrap_or(u8::MAX)
    }

    /// All slots, pronoun resolved.
    fn slots(&self) -> Slots {
        let mut slots = self.sentence.slots;
        if let (Some(person), Some(slot)) = (self.pronoun, self.sentence.subject) {
            slots.set(slot, Some(person));
        }
        slots
    }

    /// A number slot, as the number it means.
    fn count(&self) -> u8 {
        lexicon::number(self.must(Slot::Number))
    }
}

impl World {
    fn follow(&mut self, body: &[Sentence]) {
        for sentence in body {
            self.now = sentence.number;
            if sentence.line != self.line {
                self.line = sentence.line;
                self.subject = None;
            }
            let pronoun = match sentence.pronoun {
                None => None,
                Some(gender) => match self.subject {
                    Some(person) if lexicon::gender(person) == gender => Some(person),
                    _ => {
                        self.no(format!("\"{}\" means nobody here", gender.pronoun()));
                        self.subject = None;
                        continue;
                    }
                },
            };
            let said = Said { sentence, pronoun };
            let meaning = (sentence.kind, said.slots());
            if self.before == Some(meaning) {
                self.no("this was said just before");
            }
            self.before = Some(meaning);
            let (p, q) = (said.get(Slot::P), said.get(Slot::Q));
            if p.is_some() && p == q {
                self.no("one person stands on both sides");
            } else {
                self.step(&said);
            }
            // A sentence without a person leaves the pronoun where it was.
            if p.is_some() || q.is_some() {
                self.subject = sentence.subject.and_then(|slot| said.get(slot));
            }
        }
    }

    fn step(&mut self, said: &Said) {
        match said.sentence.kind {
            Kind::Weather | Kind::Effect | Kind::Because => self.weather(said),
            Kind::Open | Kind::Go | Kind::GoTogether | Kind::Meet | Kind::Bye => self.moves(said),
            Kind::Happy | Kind::Sad | Kind::Thanks | Kind::Want | Kind::WishCameTrue => self.feels(said),
            Kind::Race | Kind::Win | Kind::Second | Kind::Prize => self.race(said),
            Kind::Coins | Kind::CoinsLeft => self.coins(said),
            Kind::Pick | Kind::More | Kind::GiveMore | Kind::Total => self.gains(said),
            Kind::GiveSome | Kind::Eat | Kind::Drop | Kind::Left => self.losses(said),
            Kind::See | Kind::Away | Kind::Join | Kind::Flock => self.flock(said),
            Kind::Owns | Kind::Buy | Kind::BuyFor | Kind::Find => self.appears(said),
            Kind::Use | Kind::Show | Kind::Has => self.holds(said),
            Kind::Give | Kind::Lend | Kind::GiveBack | Kind::Trade => self.changes_hands(said),
            Kind::Lose | Kind::Stolen | Kind::Chase | Kind::AnimalPut | Kind::Blown | Kind::LeftAt => {
                self.goes_missing(said)
            }
            Kind::Hide | Kind::Discover | Kind::NotBefore | Kind::StillThere => self.turns_up(said),
            Kind::Break | Kind::Ask | Kind::Mend | Kind::Held | Kind::Paint | Kind::IsNow => self.is_worked_on(said),
            _ => self.no("this sentence belongs into a title or a last line"),
        }
    }

    /// Notes a contradiction in the sentence being judged.
    fn no(&mut self, message: impl Into<String>) {
        self.problems.push(Problem::new(self.now, ProblemKind::Contradiction, message));
    }

    /// Notes a contradiction unless `fact`; returns `fact`.
    fn require(&mut self, fact: bool, message: &str) -> bool {
        if !fact {
            self.no(message);
        }
        fact
    }
}

fn person_name(person: u8) -> &'static str {
    Class::Person.words().get(usize::from(person)).copied().unwrap_or("nobody")
}

fn thing_name(thing: u8) -> &'static str {
    Class::Thing.words().get(usize::from(thing)).copied().unwrap_or("nothing")
}
