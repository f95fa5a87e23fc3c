//! Who is where, who feels what, the weather, and races.

use super::world::{Deed, Mood, Person, Race, Whereabouts, World};
use super::{Said, person_name};
use crate::forms::{Kind, Slot};

impl World {
    /// Lets a person into the story who has not been named before.
    fn enters(&mut self, person: u8, at: Whereabouts) {
        if let Whereabouts::At(place) = at {
            self.deeds.insert(Deed::WasAt { person, place });
        }
        self.people.insert(person, Person { at, wish: None, coins: None, mood: None });
    }

    /// The person must be known; the very first one may enter by being named.
    pub(super) fn known(&mut self, person: u8) -> bool {
        if self.people.is_empty() {
            self.enters(person, Whereabouts::Unsaid);
        }
        let at = self.people.get(&person).map(|known| known.at);
        match at {
            None => self.require(false, &format!("{} has not come into the story", person_name(person))),
            Some(Whereabouts::Home) => self.require(false, &format!("{} has gone home", person_name(person))),
            Some(_) => true,
        }
    }

    pub(super) fn place_of(&self, person: u8) -> Option<u8> {
        match self.people.get(&person)?.at {
            Whereabouts::At(place) => Some(place),
            Whereabouts::Unsaid | Whereabouts::Home => None,
        }
    }

    /// The person must be at some place; returns it.
    pub(super) fn somewhere(&mut self, person: u8) -> Option<u8> {
        if !self.known(person) {
            return None;
        }
        let place = self.place_of(person);
        self.require(place.is_some(), &format!("nobody knows where {} is", person_name(person)));
        place
    }

    /// Both must be at the same place.
    pub(super) fn together(&mut self, one: u8, other: u8) -> bool {
        match (self.somewhere(one), self.somewhere(other)) {
            (Some(a), Some(b)) => {
                let why = format!("{} and {} are not at one place", person_name(one), person_name(other));
                self.require(a == b, &why)
            }
            _ => false,
        }
    }

    pub(super) fn feel(&mut self, person: u8, mood: Mood) {
        if let Some(person) = self.people.get_mut(&person) {
            person.mood = Some(mood);
        }
    }

    /// Somebody has got a thing for keeps; if it was wished for, the wish is granted.
    pub(super) fn comes_to_own(&mut self, person: u8, thing: u8) {
        self.got = Some((person, thing));
        self.feel(person, Mood::Glad);
        if let Some(wish) = self.people.get_mut(&person).and_then(|person| person.wish.as_mut())
            && wish.0 == thing
        {
            wish.1 = true;
        }
    }

    fn walk(&mut self, person: u8, place: u8) {
        if let Some(known) = self.people.get_mut(&person) {
            known.at = Whereabouts::At(place);
        }
        self.deeds.insert(Deed::WasAt { person, place });
        for object in self.objects.values_mut().filter(|object| object.holder == Some(person)) {
            object.places.insert(place);
        }
    }

    pub(super) fn weather(&mut self, said: &Said) {
        let weather = said.must(Slot::Weather);
        let agrees = self.weather.is_none_or(|before| before == weather);
        match said.sentence.kind {
            Kind::Weather => {
                self.require(self.weather.is_none(), "the weather has been told already");
            }
            Kind::Effect => {
                self.known(said.must(Slot::P));
                self.require(agrees, "this weather does not do that");
                self.effect = Some(weather);
            }
            _ => {
                let told = self.effect.take() == Some(weather);
                self.require(told, "nothing was told that this weather does");
                self.require(agrees, "the weather is another one");
            }
        }
        self.weather = self.weather.or(Some(weather));
    }

    pub(super) fn moves(&mut self, said: &Said) {
        let (p, place) = (said.must(Slot::P), said.get(Slot::Place));
        match (said.sentence.kind, place) {
            (Kind::Open, Some(place)) => {
                if self.known(p) && self.require(self.place_of(p).is_none(), "the story has already begun") {
                    self.walk(p, place);
                }
            }
            (Kind::Go, Some(place)) => {
                if let Some(from) = self.somewhere(p)
                    && self.require(from != place, "already there")
                {
                    self.walk(p, place);
                }
            }
            (Kind::GoTogether, Some(place)) => {
                let q = said.must(Slot::Q);
                if self.together(p, q) && self.require(self.place_of(p) != Some(place), "already there") {
                    self.walk(p, place);
                    self.walk(q, place);
                }
            }
            (Kind::Meet, _) => self.meet(p, said.must(Slot::Q)),
            _ => {
                self.known(p);
                self.require(self.people.len() > 1, "nobody would be left in the story");
                if let Some(person) = self.people.get_mut(&p) {
                    person.at = Whereabouts::Home;
                }
            }
        }
    }

    fn meet(&mut self, p: u8, q: u8) {
        let Some(here) = self.somewhere(p) else { return };
        if self.require(!self.people.contains_key(&q), &format!("{} was met before", person_name(q))) {
            self.enters(q, Whereabouts::At(here));
            self.deeds.insert(Deed::Met { person: p, other: q, place: here });
        }
    }

    pub(super) fn feels(&mut self, said: &Said) {
        let (p, kind) = (said.must(Slot::P), said.sentence.kind);
        if !self.known(p) {
            return;
        }
        match kind {
            Kind::Happy | Kind::Sad => {
                let mood = if kind == Kind::Happy { Mood::Glad } else { Mood::Down };
                // A mood is told once for what brought it about.
                let felt = self.people.get_mut(&p).and_then(|person| person.mood.take()) == Some(mood);
                self.require(felt, &format!("{} has no reason to feel so", person_name(p)));
            }
            Kind::Thanks => {
                let favour = self.favour.take();
                let q = said.must(Slot::Q);
                self.require(favour == Some((q, p)), &format!("{} did nothing for {}", person_name(q), person_name(p)));
            }
            Kind::Want => {
                let thing = said.must(Slot::T);
                let has = self.objects.get(&thing).is_some_and(|object| object.owner == p);
                self.require(!has, "nobody wants what is theirs");
                let open = self.people.values().any(|person| matches!(person.wish, Some((_, false))));
                self.require(!open, "a wish is still open");
                if let Some(person) = self.people.get_mut(&p) {
                    person.wish = Some((thing, false));
                }
            }
            _ => {
                let wish = self.people.get_mut(&p).and_then(|person| person.wish.take()).map(|(thing, _)| thing);
                let got = wish.is_some_and(|thing| self.got == Some((p, thing)));
                self.require(got, &format!("{} did not just get what was wished for", person_name(p)));
            }
        }
    }

    pub(super) fn race(&mut self, said: &Said) {
        let p = said.must(Slot::P);
        if said.sentence.kind == Kind::Race {
            let (q, goal) = (said.must(Slot::Q), said.must(Slot::Place));
            self.require(self.race.is_none(), "a second race");
            if self.together(p, q) && self.require(self.place_of(p) != Some(goal), "already there") {
                self.walk(p, goal);
                self.walk(q, goal);
                self.race = Some(Race { runners: (p, q), goal, winner: None });
                self.deeds.insert(Deed::Raced { person: p, other: q, place: goal });
            }
            return;
        }
        let Some(race) = self.race else { return self.no("there was no race") };
        let ran = |person: u8| person == race.runners.0 || person == race.runners.1;
        match said.sentence.kind {
            Kind::Win => {
                if self.require(ran(p), "this person did not run")
                    && self.require(race.winner.is_none(), "the race is over")
                {
                    self.race = Some(Race { winner: Some(p), ..race });
                    self.deeds.insert(Deed::Won { person: p, place: race.goal });
                    let loser = if p == race.runners.0 { race.runners.1 } else { race.runners.0 };
                    self.feel(p, Mood::Glad);
                    self.feel(loser, Mood::Down);
                }
            }
            Kind::Second => {
                let lost = ran(p) && race.winner.is_some_and(|winner| winner != p);
                self.require(lost, "this person did not come second");
            }
            _ => {
                let told = said.get(Slot::P);
                match race.winner {
                    Some(winner) if told.is_none_or(|person| person == winner) => {
                        self.receive(winner, said.must(Slot::C), said.must(Slot::T));
                    }
                    _ => self.no("the prize is the winner's"),
                }
            }
        }
    }
}
