//! Things that break, are mended, are painted.

use super::Said;
use super::world::{Deed, Mood, Plight, World};
use crate::forms::{Kind, Slot};
use crate::lexicon;

impl World {
    pub(super) fn is_worked_on(&mut self, said: &Said) {
        let (thing, colour) = (said.get(Slot::T), said.get(Slot::C));
        match said.sentence.kind {
            Kind::Ask => {
                let (p, q) = (said.must(Slot::P), said.must(Slot::Q));
                let broken =
                    self.objects.values().any(|object| object.plight == Plight::Broken && object.holder == Some(p));
                self.require(broken, "there is nothing to mend");
                if self.together(p, q) && self.require(self.asked.is_none(), "that was asked before") {
                    self.asked = Some((p, said.must(Slot::Material)));
                    self.favour = Some((q, p));
                }
            }
            Kind::Held => {
                let (material, told) = (said.must(Slot::Material), thing);
                let fits = self.mended.is_some_and(|(thing, used)| used == material && told.is_none_or(|t| t == thing));
                self.require(fits, "this was not used to mend it");
                if let Some(thing) = told {
                    self.object(thing, colour);
                }
            }
            Kind::Break => self.breaks(said.must(Slot::P), said.get(Slot::P), said.must(Slot::T), colour),
            Kind::Mend => self.mends(said.must(Slot::P), said.must(Slot::T), colour, said.must(Slot::Material)),
            Kind::Paint => self.paints(said.must(Slot::P), said.must(Slot::T), colour, said.must(Slot::D)),
            _ => {
                let (thing, told) = (said.must(Slot::T), said.must(Slot::D));
                let fits =
                    self.painted == Some(thing) && self.objects.get(&thing).is_some_and(|object| object.colour == told);
                self.require(fits, "it was not painted so");
            }
        }
    }

    fn breaks(&mut self, p: u8, named: Option<u8>, thing: u8, colour: Option<u8>) {
        let Some(object) = self.object(thing, colour) else { return };
        let (holder, owner) = (object.holder, object.owner);
        let fits = holder.is_some() && holder == Some(owner) && named.is_none_or(|_| holder == Some(p));
        self.require(fits, "it is not in that hand");
        self.require(lexicon::is_sturdy(thing), "such a thing does not break");
        if self.whole_thing(thing) {
            if let Some(object) = self.objects.get_mut(&thing) {
                object.plight = Plight::Broken;
            }
            self.feel(owner, Mood::Down);
            self.deeds.insert(Deed::WasBroken { thing });
        }
    }

    /// The holder mends, or somebody at the same place does it for the holder, who then has it back in hand.
    fn mends(&mut self, p: u8, thing: u8, colour: Option<u8>, material: u8) {
        let Some(object) = self.object(thing, colour) else { return };
        let (broken, owner) = (object.plight == Plight::Broken, object.owner);
        if !self.require(broken, "it is not broken") || (p == owner && !self.known(p)) {
            return;
        }
        if p != owner {
            if !self.together(p, owner) {
                return;
            }
            self.favour = Some((p, owner));
        }
        if let Some((asker, asked)) = self.asked.take() {
            self.require(asker == p && asked == material, "something else was asked for");
        }
        if let Some(object) = self.objects.get_mut(&thing) {
            object.plight = Plight::Fine;
        }
        self.mended = Some((thing, material));
        self.feel(owner, Mood::Glad);
        self.deeds.insert(Deed::Mended { person: p, thing, material });
    }

    fn paints(&mut self, p: u8, thing: u8, colour: Option<u8>, new: u8) {
        if !self.in_hand(p, thing, colour) || !self.whole_thing(thing) {
            return;
        }
        self.require(lexicon::is_sturdy(thing), "nobody paints such a thing");
        let Some(object) = self.objects.get_mut(&thing) else { return };
        let (old, owner) = (object.colour, object.owner);
        object.colour = new;
        self.require(owner == p, "it is not theirs to paint");
        self.require(old != new, "it has that colour already");
        self.painted = Some(thing);
        self.deeds.insert(Deed::Painted { person: p, thing, from: old, to: new });
    }
}
