//! Things: how they appear, who has them, and how they change hands.

use super::world::{Deed, Mood, Object, Plight, World};
use super::{Said, person_name, thing_name};
use crate::forms::{Kind, Slot};
use crate::lexicon;
use std::collections::BTreeSet;

impl World {
    /// Somebody comes to own a thing that the story has not named before.
    pub(super) fn receive(&mut self, person: u8, colour: u8, thing: u8) -> bool {
        let new = !self.objects.contains_key(&thing);
        if self.require(new, &format!("there is a {} already", thing_name(thing))) {
            let places: BTreeSet<u8> = self.place_of(person).into_iter().collect();
            let object =
                Object { colour, owner: person, holder: Some(person), plight: Plight::Fine, away: false, places };
            self.objects.insert(thing, object);
            self.comes_to_own(person, thing);
        }
        new
    }

    pub(super) fn appears(&mut self, said: &Said) {
        let (p, colour, thing) = (said.must(Slot::P), said.must(Slot::C), said.must(Slot::T));
        if !self.known(p) {
            return;
        }
        if said.sentence.kind == Kind::Owns {
            if self.receive(p, colour, thing) {
                // What one has had all along is neither news nor the answer to a wish.
                self.got = None;
                if let Some(person) = self.people.get_mut(&p) {
                    person.mood = None;
                }
            }
            return;
        }
        let Some(place) = self.somewhere(p) else { return };
        if said.sentence.kind == Kind::Find {
            if self.receive(p, colour, thing) {
                self.deeds.insert(Deed::Found { person: p, colour, thing, place });
            }
            return;
        }
        self.require(lexicon::is_shop(place), "nothing is sold here");
        if said.sentence.kind == Kind::BuyFor {
            self.pay(p, said.count());
        }
        if self.receive(p, colour, thing) {
            self.deeds.insert(Deed::Bought { person: p, colour, thing, place });
        }
    }

    /// The thing a reference means; a colour that is told has to be its own.
    pub(super) fn object(&mut self, thing: u8, colour: Option<u8>) -> Option<&mut Object> {
        match self.objects.get(&thing).map(|object| object.colour) {
            None => self.no(format!("there is no {}", thing_name(thing))),
            Some(own) if colour.is_some_and(|told| told != own) => {
                self.no(format!("the {} has another colour", thing_name(thing)));
            }
            Some(_) => {}
        }
        self.objects.get_mut(&thing)
    }

    /// The person must have the thing in hand.
    pub(super) fn in_hand(&mut self, person: u8, thing: u8, colour: Option<u8>) -> bool {
        if !self.known(person) {
            return false;
        }
        let Some(object) = self.object(thing, colour) else { return false };
        let has = object.holder == Some(person);
        self.require(has, &format!("{} does not have the {}", person_name(person), thing_name(thing)))
    }

    pub(super) fn whole_thing(&mut self, thing: u8) -> bool {
        let fine = self.objects.get(&thing).is_some_and(|object| object.plight == Plight::Fine);
        self.require(fine, &format!("the {} is not fit for that", thing_name(thing)))
    }

    pub(super) fn holds(&mut self, said: &Said) {
        let (p, thing) = (said.must(Slot::P), said.must(Slot::T));
        if self.in_hand(p, thing, said.get(Slot::C)) && said.sentence.kind != Kind::Has {
            self.whole_thing(thing);
        }
        if said.sentence.kind == Kind::Show {
            self.together(p, said.must(Slot::Q));
        }
    }

    pub(super) fn changes_hands(&mut self, said: &Said) {
        let (p, thing, colour) = (said.must(Slot::P), said.must(Slot::T), said.get(Slot::C));
        if !self.in_hand(p, thing, colour) || !self.whole_thing(thing) {
            return;
        }
        if said.sentence.kind == Kind::Trade {
            return self.trade(said, p, thing);
        }
        let q = said.must(Slot::Q);
        if !self.together(p, q) {
            return;
        }
        let Some(object) = self.objects.get_mut(&thing) else { return };
        let (owner, away) = (object.owner, object.away);
        object.holder = Some(q);
        object.places = BTreeSet::new();
        match said.sentence.kind {
            Kind::Give => {
                object.owner = q;
                self.require(owner == p, "it is not theirs to give");
                self.comes_to_own(q, thing);
                self.deeds.insert(Deed::Gave { from: p, to: q, thing });
            }
            Kind::Lend => {
                object.away = true;
                self.require(owner == p, "it is not theirs to lend");
            }
            _ => {
                object.away = false;
                self.require(away && owner == q, &format!("it is not to go back to {}", person_name(q)));
                self.deeds.insert(Deed::CameBack { person: q, thing });
            }
        }
        if let Some(place) = self.place_of(q)
            && let Some(object) = self.objects.get_mut(&thing)
        {
            object.places.insert(place);
        }
        self.favour = Some((p, q));
        self.feel(q, Mood::Glad);
    }

    fn trade(&mut self, said: &Said, p: u8, thing: u8) {
        let other = said.must(Slot::U);
        let Some(holder) = self.object(other, said.get(Slot::D)).and_then(|object| object.holder) else {
            return self.no(format!("nobody has the {}", thing_name(other)));
        };
        self.require(said.get(Slot::Q).is_none_or(|q| q == holder), "somebody else has it");
        if !self.require(holder != p, "both are theirs already")
            || !self.together(p, holder)
            || !self.whole_thing(other)
        {
            return;
        }
        for (thing, from, to) in [(thing, p, holder), (other, holder, p)] {
            let place = self.place_of(to);
            if let Some(object) = self.objects.get_mut(&thing) {
                let own = object.owner == from;
                object.owner = to;
                object.holder = Some(to);
                object.places = place.into_iter().collect();
                self.require(own, "it is not theirs to trade");
            }
            self.comes_to_own(to, thing);
        }
        self.got = Some((p, other));
        for (person, thing, got) in [(p, thing, other), (holder, other, thing)] {
            let colour = self.objects.get(&thing).map_or(u8::MAX, |object| object.colour);
            self.deeds.insert(Deed::Traded { person, colour, thing, got });
        }
    }
}
