//! Numbers: coins, goods that people have, animals in sight.

use super::world::{Deed, Mood, World};
use super::{Said, person_name};
use crate::forms::{Kind, Slot};
use crate::lexicon::{self, LEAST, MOST};

impl World {
    pub(super) fn coins(&mut self, said: &Said) {
        let (p, n) = (said.must(Slot::P), said.count());
        if !self.known(p) {
            return;
        }
        let had = self.people.get(&p).and_then(|person| person.coins);
        if said.sentence.kind == Kind::Coins {
            self.require(had.is_none(), "the coins were counted before");
            if let Some(person) = self.people.get_mut(&p) {
                person.coins = Some(n);
            }
        } else {
            self.require(had == Some(n), "the coins do not add up");
        }
    }

    /// Pays coins; false when there are not enough of them.
    pub(super) fn pay(&mut self, person: u8, n: u8) {
        let had = self.people.get(&person).and_then(|person| person.coins);
        let left = had.and_then(|had| had.checked_sub(n));
        self.require(left.is_some(), &format!("{} does not have so many coins", person_name(person)));
        if let Some(person) = self.people.get_mut(&person) {
            person.coins = left;
        }
    }

    pub(super) fn gains(&mut self, said: &Said) {
        let (n, kind) = (said.count(), said.sentence.kind);
        match kind {
            Kind::Pick => {
                let (p, goods) = (said.must(Slot::P), said.must(Slot::Goods));
                if self.somewhere(p).is_some() {
                    self.require(!self.goods.keys().any(|(_, other)| *other != goods), "other goods are being counted");
                    if self.require(!self.goods.contains_key(&(p, goods)), "there were some before") {
                        self.goods.insert((p, goods), n);
                        self.counting = Some((p, goods));
                    }
                }
            }
            Kind::More | Kind::GiveMore => {
                let to = if kind == Kind::More { said.must(Slot::P) } else { said.must(Slot::Q) };
                if kind == Kind::GiveMore {
                    let from = said.must(Slot::P);
                    if !self.together(from, to) {
                        return;
                    }
                    self.favour = Some((from, to));
                    self.feel(to, Mood::Glad);
                }
                if !self.known(to) {
                    return;
                }
                let Some(goods) = self.counted_by(to, said.get(Slot::Goods)) else {
                    return self.no("more of what is not there");
                };
                let sum = self.goods[&(to, goods)] + n;
                self.require(sum <= MOST, "too many to count");
                self.goods.insert((to, goods), sum);
                self.counting = Some((to, goods));
            }
            _ => self.states(said, n),
        }
    }

    /// The goods a person has, if they are the ones named.
    fn counted_by(&self, person: u8, named: Option<u8>) -> Option<u8> {
        let (_, goods) = self.goods.keys().find(|(holder, _)| *holder == person)?;
        named.is_none_or(|named| named == *goods).then_some(*goods)
    }

    /// A total: it has to be what the person has; without a person it is about whoever counted last.
    fn states(&mut self, said: &Said, n: u8) {
        let goods = said.must(Slot::Goods);
        let person = said.get(Slot::P).or(self.counting.map(|(person, _)| person));
        let Some(person) = person else { return self.no("nobody has counted") };
        if self.known(person) {
            self.require(self.goods.get(&(person, goods)) == Some(&n), "the count does not add up");
        }
    }

    pub(super) fn losses(&mut self, said: &Said) {
        let (n, goods, kind) = (said.count(), said.must(Slot::Goods), said.sentence.kind);
        if kind == Kind::Left {
            return self.states(said, n);
        }
        let p = said.must(Slot::P);
        if !self.known(p) {
            return;
        }
        let had = self.goods.get(&(p, goods)).copied().unwrap_or(0);
        let Some(left) = had.checked_sub(n).filter(|left| *left >= LEAST) else {
            return self.no(format!("{} does not have so many", person_name(p)));
        };
        match kind {
            Kind::Eat => {
                self.require(lexicon::is_food(goods), "nobody eats these");
            }
            Kind::Drop => self.feel(p, Mood::Down),
            _ => {
                let q = said.must(Slot::Q);
                if !self.together(p, q) {
                    return;
                }
                *self.goods.entry((q, goods)).or_insert(0) += n;
                self.favour = Some((p, q));
                self.feel(q, Mood::Glad);
            }
        }
        self.goods.insert((p, goods), left);
        self.counting = Some((p, goods));
    }

    pub(super) fn flock(&mut self, said: &Said) {
        let n = said.count();
        let named = said.get(Slot::Flock);
        if said.sentence.kind == Kind::See {
            return self.see(said, n);
        }
        let Some((flock, count, place)) = self.flock else { return self.no("no animals were seen") };
        self.require(named.is_none_or(|named| named == flock), "other animals were seen");
        let watched = self.people.keys().any(|person| self.place_of(*person) == Some(place));
        self.require(watched, "nobody is there to see it");
        match said.sentence.kind {
            Kind::Away => match count.checked_sub(n).filter(|left| *left >= LEAST) {
                Some(left) => self.flock = Some((flock, left, place)),
                None => self.no("there are not so many animals"),
            },
            Kind::Join => {
                self.require(count + n <= MOST, "too many to count");
                self.flock = Some((flock, count + n, place));
            }
            _ => {
                if let Some(p) = said.get(Slot::P) {
                    let here = self.somewhere(p);
                    self.require(here.is_none_or(|here| here == place), "the animals are elsewhere");
                }
                self.require(count == n, "the animals do not add up");
            }
        }
    }

    fn see(&mut self, said: &Said, n: u8) {
        let person = said.get(Slot::P);
        let here = match person {
            Some(p) => self.somewhere(p),
            // Without a person, the place has to be one where somebody is.
            None => said.get(Slot::Place).filter(|place| self.people.keys().any(|p| self.place_of(*p) == Some(*place))),
        };
        let Some(here) = here else { return self.no("nobody is there to see it") };
        self.require(said.get(Slot::Place).is_none_or(|place| place == here), "at another place");
        if self.require(self.flock.is_none(), "animals were counted before") {
            let flock = said.must(Slot::Flock);
            self.flock = Some((flock, n, here));
            self.deeds.insert(Deed::Saw { person, flock, place: here });
        }
    }
}
