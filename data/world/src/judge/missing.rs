//! Things that are lost or hidden, and how they turn up.

use super::Said;
use super::world::{Clue, Deed, Mood, Plight, World};
use crate::forms::{Kind, Slot};
use crate::lexicon;

impl World {
    pub(super) fn goes_missing(&mut self, said: &Said) {
        if said.sentence.kind == Kind::AnimalPut {
            return self.animal_put(said);
        }
        if said.sentence.kind == Kind::Chase {
            let (p, plight) = (said.must(Slot::P), Plight::Lost(Clue::Stolen(said.must(Slot::Animal))));
            let fits = self.objects.values().any(|object| object.plight == plight && object.owner == p);
            self.require(fits, "this animal took nothing of theirs");
            return;
        }
        let (thing, colour) = (said.must(Slot::T), said.get(Slot::C));
        if said.sentence.kind == Kind::Lose {
            let p = said.must(Slot::P);
            if self.in_hand(p, thing, colour) && self.whole_thing(thing) && self.somewhere(p).is_some() {
                if let Some(object) = self.objects.get_mut(&thing) {
                    object.holder = None;
                    object.plight = Plight::Lost(Clue::None);
                }
                self.feel(p, Mood::Down);
                self.deeds.insert(Deed::WasLost { thing });
            }
            return;
        }
        let Some(object) = self.object(thing, colour) else { return };
        let (plight, owner) = (object.plight, object.owner);
        if !self.require(plight == Plight::Lost(Clue::None), "it was not gone, or it is known why") {
            return;
        }
        let clue = match said.sentence.kind {
            Kind::Stolen => {
                let animal = said.must(Slot::Animal);
                self.deeds.insert(Deed::Stole { animal, thing });
                Clue::Stolen(animal)
            }
            Kind::Blown => {
                self.require(self.weather.is_none_or(|weather| weather == lexicon::WIND), "there is no wind");
                self.weather = Some(lexicon::WIND);
                Clue::Blown
            }
            _ => {
                let place = said.must(Slot::Place);
                self.require(said.get(Slot::P).is_none_or(|p| p == owner), "somebody else lost it");
                let been = self.objects.get(&thing).is_some_and(|object| object.places.contains(&place));
                self.require(been, "it was never there");
                self.require(self.place_of(owner) != Some(place), "it would be here");
                Clue::LeftAt(place)
            }
        };
        if let Some(object) = self.objects.get_mut(&thing) {
            object.plight = Plight::Lost(clue);
        }
    }

    fn animal_put(&mut self, said: &Said) {
        let (animal, spot) = (said.must(Slot::Animal), said.must(Slot::Spot));
        let stolen = self.objects.values_mut().find(|object| object.plight == Plight::Lost(Clue::Stolen(animal)));
        match stolen {
            Some(object) => object.plight = Plight::Lost(Clue::Spot(spot)),
            None => self.no("this animal took nothing"),
        }
    }

    pub(super) fn turns_up(&mut self, said: &Said) {
        let spot = said.get(Slot::Spot);
        if said.sentence.kind == Kind::NotBefore {
            self.require(spot.is_some() && spot == self.discovered, "it was not found there");
            return;
        }
        let p = said.must(Slot::P);
        let Some(here) = self.somewhere(p) else { return };
        let (thing, colour) = (said.must(Slot::T), said.get(Slot::C));
        if said.sentence.kind == Kind::Hide {
            if self.in_hand(p, thing, colour)
                && self.whole_thing(thing)
                && let (Some(object), Some(spot)) = (self.objects.get_mut(&thing), spot)
            {
                object.holder = None;
                object.plight = Plight::Hidden(spot);
                self.deeds.insert(Deed::WasHidden { thing });
            }
            return;
        }
        let Some(object) = self.object(thing, colour) else { return };
        let (plight, owner) = (object.plight, object.owner);
        let fits = match (plight, said.sentence.kind) {
            (Plight::Hidden(at), Kind::Discover) => Some(at) == spot && p != owner,
            (Plight::Lost(Clue::Spot(at)), Kind::Discover) => Some(at) == spot,
            (Plight::Lost(Clue::None | Clue::Blown), Kind::Discover) => true,
            (Plight::Lost(Clue::LeftAt(place)), Kind::StillThere) => place == here && p == owner,
            _ => false,
        };
        if !self.require(fits, "it cannot be found so") {
            return;
        }
        if let Some(object) = self.objects.get_mut(&thing) {
            object.holder = Some(p);
            object.plight = Plight::Fine;
            object.away = p != owner;
            object.places.insert(here);
        }
        self.discovered = spot;
        if p == owner {
            self.feel(p, Mood::Glad);
            self.deeds.insert(Deed::CameBack { person: p, thing });
        }
    }
}
