//! The end of a story: nothing may be left open, and title and last line must name what happened.

use super::world::{Deed, Object, Plight, World};
use super::{Said, person_name, thing_name};
use crate::check::{Problem, ProblemKind};
use crate::forms::{Kind, Slot};
use crate::parse::{Reading, Sentence};

impl World {
    pub(super) fn close(&mut self, reading: &Reading) {
        let last = reading.ending.as_ref().map_or(self.now, |ending| ending.number);
        for message in self.open_matters() {
            self.problems.push(Problem::new(last, ProblemKind::Unresolved, message));
        }
        match &reading.title {
            Some(title) if !self.title_holds(&said(title)) => {
                self.problems.push(Problem::new(0, ProblemKind::Title, "the story tells something else"));
            }
            _ => {}
        }
        match &reading.ending {
            Some(ending) if !self.ending_holds(&said(ending)) => {
                self.problems.push(Problem::new(last, ProblemKind::Ending, "that is not what happened"));
            }
            _ => {}
        }
    }

    fn open_matters(&self) -> Vec<String> {
        let mut open = Vec::new();
        for (thing, object) in &self.objects {
            let name = thing_name(*thing);
            match object.plight {
                Plight::Fine if object.away => open.push(format!("the {name} did not come back to its owner")),
                Plight::Fine => {}
                Plight::Lost(_) => open.push(format!("the {name} is still lost")),
                Plight::Hidden(_) => open.push(format!("the {name} is still hidden")),
                Plight::Broken => open.push(format!("the {name} is still broken")),
            }
        }
        for (person, known) in &self.people {
            if matches!(known.wish, Some((_, false))) {
                open.push(format!("the wish of {} did not come true", person_name(*person)));
            }
        }
        if self.race.is_some_and(|race| race.winner.is_none()) {
            open.push("nobody won the race".to_owned());
        }
        open
    }

    fn any(&self, fits: impl Fn(&Deed) -> bool) -> bool {
        self.deeds.iter().any(fits)
    }

    fn title_holds(&self, title: &Said) -> bool {
        let (p, q, t) = (title.get(Slot::P), title.get(Slot::Q), title.get(Slot::T));
        let known = |person: Option<u8>| person.is_some_and(|person| self.people.contains_key(&person));
        let was_owner = |person: u8, thing: u8| {
            self.objects.get(&thing).is_some_and(|object| object.owner == person)
                || self.any(|deed| match *deed {
                    Deed::Gave { from, thing: given, .. } => from == person && given == thing,
                    Deed::Traded { person: who, thing: given, .. } => who == person && given == thing,
                    _ => false,
                })
        };
        match title.sentence.kind {
            Kind::TitlePersonThing => was_owner(title.must(Slot::P), title.must(Slot::T)),
            Kind::TitleColourThing => {
                let (thing, colour) = (title.must(Slot::T), title.must(Slot::C));
                self.objects.get(&thing).is_some_and(|object| object.colour == colour)
                    || self.any(
                        |deed| matches!(*deed, Deed::Painted { thing: t, from, .. } if t == thing && from == colour),
                    )
            }
            Kind::TitlePeople => known(p) && known(q) && p != q,
            Kind::TitlePlace => {
                let place = title.must(Slot::Place);
                self.any(|deed| match *deed {
                    Deed::WasAt { person, place: at } => at == place && p.is_none_or(|p| p == person),
                    _ => false,
                })
            }
            Kind::TitleGoods => self.goods.contains_key(&(title.must(Slot::P), title.must(Slot::Goods))),
            Kind::TitleLost => self.any(|deed| matches!(*deed, Deed::WasLost { thing } if Some(thing) == t)),
            Kind::TitleHidden => self.any(|deed| matches!(*deed, Deed::WasHidden { thing } if Some(thing) == t)),
            Kind::TitleBroken => self.any(|deed| matches!(*deed, Deed::WasBroken { thing } if Some(thing) == t)),
            Kind::TitlePainted => self.any(|deed| matches!(*deed, Deed::Painted { thing, .. } if Some(thing) == t)),
            Kind::TitleGift => self.any(|deed| match *deed {
                Deed::Gave { to, thing, .. } => Some(to) == q && t.is_none_or(|t| t == thing),
                _ => false,
            }),
            Kind::TitleThief => {
                let (animal, thing) = (title.must(Slot::Animal), title.must(Slot::T));
                self.deeds.contains(&Deed::Stole { animal, thing })
            }
            Kind::TitleWeather => self.weather == title.get(Slot::Weather),
            Kind::TitleRace => self.any(|deed| match *deed {
                Deed::Raced { person, other, place } => {
                    let pair = (p, q) == (Some(person), Some(other)) || (q, p) == (Some(person), Some(other));
                    if p.is_some() { pair } else { title.get(Slot::Place) == Some(place) }
                }
                _ => false,
            }),
            Kind::TitleTrade => {
                let u = title.get(Slot::U);
                self.any(|deed| matches!(*deed, Deed::Traded { thing, got, .. } if (Some(thing), Some(got)) == (t, u)))
            }
            Kind::TitleFlock => {
                let (flock, place) = (title.get(Slot::Flock), title.get(Slot::Place));
                self.any(|deed| match *deed {
                    Deed::Saw { person, flock: seen, place: at } => {
                        let who = p.is_none_or(|p| person == Some(p) || (person.is_none() && self.was_at(p, at)));
                        flock == Some(seen) && place.is_none_or(|place| place == at) && who
                    }
                    _ => false,
                })
            }
            _ => false,
        }
    }

    fn was_at(&self, person: u8, place: u8) -> bool {
        self.deeds.contains(&Deed::WasAt { person, place })
    }

    fn ending_holds(&self, ending: &Said) -> bool {
        let (p, thing, colour) = (ending.must(Slot::P), ending.must(Slot::T), ending.must(Slot::C));
        let place = ending.must(Slot::Place);
        let object = self.objects.get(&thing);
        let is = |fits: &dyn Fn(&Object) -> bool| object.is_some_and(fits);
        let coloured = is(&|object| object.colour == colour);
        match ending.sentence.kind {
            Kind::EndHas => coloured && is(&|object| object.holder == Some(p)),
            Kind::EndGoods => self.goods.get(&(p, ending.must(Slot::Goods))) == Some(&ending.count()),
            Kind::EndGot => {
                let q = ending.must(Slot::Q);
                let gave = self.deeds.contains(&Deed::Gave { from: p, to: q, thing });
                coloured && gave && is(&|object| object.owner == q)
            }
            Kind::EndBought => self.deeds.contains(&Deed::Bought { person: p, colour, thing, place }),
            Kind::EndFound => self.deeds.contains(&Deed::Found { person: p, colour, thing, place }),
            Kind::EndBack => {
                let back = self.deeds.contains(&Deed::CameBack { person: p, thing });
                coloured && back && is(&|object| object.holder == Some(p))
            }
            Kind::EndThief => {
                let stole = self.deeds.contains(&Deed::Stole { animal: ending.must(Slot::Animal), thing });
                coloured && stole && is(&|object| object.owner == p)
            }
            Kind::EndMended => {
                coloured
                    && self.deeds.contains(&Deed::Mended { person: p, thing, material: ending.must(Slot::Material) })
            }
            Kind::EndPainted => {
                let to = ending.must(Slot::D);
                self.any(|deed| match *deed {
                    Deed::Painted { person, thing: t, from, to: new } => {
                        (person, t, from, new) == (p, thing, colour, to)
                    }
                    _ => false,
                })
            }
            Kind::EndTrade => {
                let (got, new) = (ending.must(Slot::U), ending.must(Slot::D));
                self.deeds.contains(&Deed::Traded { person: p, colour, thing, got })
                    && self.objects.get(&got).is_some_and(|object| object.colour == new)
            }
            Kind::EndWon => self.deeds.contains(&Deed::Won { person: p, place }),
            Kind::EndMet => self.deeds.contains(&Deed::Met { person: p, other: ending.must(Slot::Q), place }),
            Kind::EndSaw => {
                let flock = ending.must(Slot::Flock);
                self.deeds.contains(&Deed::Saw { person: Some(p), flock, place })
                    || (self.was_at(p, place) && self.deeds.contains(&Deed::Saw { person: None, flock, place }))
            }
            _ => false,
        }
    }
}

fn said(sentence: &Sentence) -> Said<'_> {
    Said { sentence, pronoun: None }
}
