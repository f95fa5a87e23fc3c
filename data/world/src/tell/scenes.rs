//! What happens in each episode.

use super::episodes::{Episode, MOST_ITEMS};
use super::settle;
use super::tale::{Matter, Tale};
use crate::forms::{Kind, Slot};
use crate::lexicon::{self, Class, LEAST, MOST};

/// Somebody turns out to have a thing.
pub(super) fn owns(tale: &mut Tale, person: u8) {
    let (thing, colour) = (tale.fresh_thing(), tale.fresh_colour());
    tale.say(Kind::Owns, &[(Slot::P, person), (Slot::T, thing), (Slot::C, colour)]);
    tale.gains(person, thing, colour);
}

pub(super) fn meet(tale: &mut Tale) {
    let (hero, here) = (tale.hero, tale.here);
    let friend = tale.fresh(Class::Person, &tale.people.clone());
    tale.say(Kind::Meet, &[(Slot::P, hero), (Slot::Q, friend)]);
    tale.ending(Kind::EndMet, &[(Slot::P, hero), (Slot::Q, friend), (Slot::Place, here)]);
    tale.title(Kind::TitlePeople, &[(Slot::P, hero), (Slot::Q, friend)]);
    tale.people.push(friend);
    tale.friend = Some(friend);
}

pub(super) fn wish(tale: &mut Tale) {
    let Some(friend) = tale.friend else { return };
    let hero = tale.hero;
    let thing = match tale.free_item(|item| item.owner == hero) {
        Some(item) if tale.items.len() >= MOST_ITEMS || tale.dice.chance(70) => item.thing,
        _ if tale.items.len() < MOST_ITEMS => tale.fresh_thing(),
        _ => return,
    };
    if let Some(item) = tale.item_mut(thing) {
        item.busy = true;
    }
    tale.say(Kind::Want, &[(Slot::P, friend), (Slot::T, thing)]);
    tale.matters.push(Matter::Wish { person: friend, thing });
}

pub(super) fn give(tale: &mut Tale) {
    if let Some(item) = tale.free_item(|_| true)
        && let Some(to) = tale.other(item.owner)
    {
        settle::give(tale, item.owner, to, item.thing);
    }
}

/// A loan, a loss, a hiding or a breakage; how it ends is for [`settle`].
pub(super) fn open_matter(tale: &mut Tale, episode: Episode) {
    let sturdy = episode == Episode::Break;
    let Some(item) = tale.free_item(|item| !sturdy || lexicon::is_sturdy(item.thing)) else { return };
    let (owner, thing) = (item.owner, item.thing);
    let other = tale.other(owner);
    let [t, c] = tale.the(thing);
    let p = (Slot::P, owner);
    let matter = match (episode, other) {
        (Episode::Lend, Some(to)) => {
            tale.say(Kind::Lend, &[p, t, c, (Slot::Q, to)]);
            tale.maybe(30, Kind::Thanks, &[(Slot::P, to), (Slot::Q, owner)]);
            Matter::Loan { from: owner, to, thing }
        }
        (Episode::Hide, Some(seeker)) => {
            let spot = tale.fresh(Class::Spot, &[]);
            tale.say(Kind::Hide, &[p, t, c, (Slot::Spot, spot)]);
            tale.title(Kind::TitleHidden, &[t]);
            Matter::Hidden { owner, seeker, thing, spot }
        }
        (Episode::Break, _) => {
            tale.say(Kind::Break, &[p, t, c]);
            tale.maybe(40, Kind::Sad, &[p]);
            tale.title(Kind::TitleBroken, &[t]);
            Matter::Broken { owner, thing }
        }
        _ => {
            tale.say(Kind::Lose, &[p, t, c]);
            tale.maybe(40, Kind::Sad, &[p]);
            tale.title(Kind::TitleLost, &[t]);
            Matter::Lost { owner, thing }
        }
    };
    if let Some(item) = tale.item_mut(thing) {
        item.busy = true;
    }
    tale.matters.push(matter);
}

pub(super) fn trade(tale: &mut Tale) {
    let Some(mine) = tale.free_item(|_| true) else { return };
    let (p, thing) = (mine.owner, mine.thing);
    let Some(q) = tale.other(p) else { return };
    if !tale.items.iter().any(|item| !item.busy && item.owner == q) {
        owns(tale, q);
    }
    let Some(theirs) = tale.free_item(|item| item.owner == q) else { return };
    let slots = [
        (Slot::P, p),
        (Slot::Q, q),
        (Slot::T, thing),
        (Slot::C, mine.colour),
        (Slot::U, theirs.thing),
        (Slot::D, theirs.colour),
    ];
    tale.say(Kind::Trade, &slots);
    tale.hand_over(thing, q);
    tale.hand_over(theirs.thing, p);
    tale.title(Kind::TitleTrade, &[(Slot::T, thing), (Slot::U, theirs.thing)]);
    tale.ending(Kind::EndTrade, &slots);
    let [t, c] = tale.the(theirs.thing);
    tale.maybe(50, Kind::Has, &[(Slot::P, p), t, c]);
    let [t, c] = tale.the(thing);
    tale.maybe(40, Kind::Has, &[(Slot::P, q), t, c]);
}

pub(super) fn paint(tale: &mut Tale) {
    let Some(item) = tale.free_item(|item| lexicon::is_sturdy(item.thing)) else { return };
    let new = tale.fresh_colour();
    let slots = [(Slot::P, item.owner), (Slot::T, item.thing), (Slot::C, item.colour), (Slot::D, new)];
    tale.say(Kind::Paint, &slots);
    if let Some(item) = tale.item_mut(item.thing) {
        item.colour = new;
    }
    tale.maybe(60, Kind::IsNow, &[(Slot::T, item.thing), (Slot::D, new)]);
    tale.title(Kind::TitlePainted, &[(Slot::T, item.thing)]);
    tale.ending(Kind::EndPainted, &slots);
}

pub(super) fn race(tale: &mut Tale) {
    let Some(friend) = tale.friend else { return };
    let hero = tale.hero;
    let goal = tale.fresh(Class::Place, &[tale.here]);
    tale.say(Kind::Race, &[(Slot::P, hero), (Slot::Q, friend), (Slot::Place, goal)]);
    tale.walk(goal);
    let winner = if tale.dice.chance(50) { hero } else { friend };
    let loser = if winner == hero { friend } else { hero };
    tale.say(Kind::Win, &[(Slot::P, winner)]);
    tale.maybe(40, Kind::Second, &[(Slot::P, loser)]);
    tale.title(Kind::TitleRace, &[(Slot::P, hero), (Slot::Q, friend), (Slot::Place, goal)]);
    tale.ending(Kind::EndWon, &[(Slot::P, winner), (Slot::Place, goal)]);
    if tale.items.len() < MOST_ITEMS && tale.dice.chance(60) {
        let (thing, colour) = (tale.fresh_thing(), tale.fresh_colour());
        tale.say(Kind::Prize, &[(Slot::P, winner), (Slot::T, thing), (Slot::C, colour)]);
        tale.gains(winner, thing, colour);
    } else {
        tale.maybe(40, Kind::Happy, &[(Slot::P, winner)]);
    }
}

pub(super) fn pick(tale: &mut Tale) {
    let (person, here) = (tale.somebody(), tale.here);
    let goods = tale.fresh(Class::Goods, &[]);
    tale.goods = Some(goods);
    let k = (Slot::Goods, goods);
    let first = tale.dice.between(LEAST, 5);
    tale.say(Kind::Pick, &[(Slot::P, person), (Slot::Number, first - LEAST), k, (Slot::Place, here)]);
    let mut count = first;
    if tale.dice.chance(75) {
        let more = tale.dice.between(LEAST, (MOST - first).min(4));
        let n = (Slot::Number, more - LEAST);
        count += more;
        match tale.other(person) {
            Some(giver) if tale.dice.chance(40) => {
                tale.say(Kind::GiveMore, &[(Slot::P, giver), (Slot::Q, person), n, k]);
                tale.maybe(30, Kind::Thanks, &[(Slot::P, person), (Slot::Q, giver)]);
            }
            _ => tale.say(Kind::More, &[(Slot::P, person), n, k]),
        }
        tale.say(Kind::Total, &[(Slot::P, person), (Slot::Number, count - LEAST), k]);
    }
    tale.counts.push((person, count));
    tale.title(Kind::TitleGoods, &[(Slot::P, person), k]);
}

pub(super) fn spend(tale: &mut Tale, episode: Episode) {
    let Some(k) = tale.goods.map(|goods| (Slot::Goods, goods)) else { return };
    let rich: Vec<(u8, u8)> =
        tale.counts.iter().copied().filter(|(person, n)| tale.is_here(*person) && *n >= LEAST * 2).collect();
    let Some((person, count)) = tale.dice.pick(&rich) else { return };
    let gone = tale.dice.between(LEAST, (count - LEAST).min(4));
    let slots = [(Slot::P, person), (Slot::Number, gone - LEAST), k];
    match (episode, tale.other(person)) {
        (Episode::GiveSome, Some(to)) => {
            tale.say(Kind::GiveSome, &[slots[0], slots[1], slots[2], (Slot::Q, to)]);
            tale.maybe(30, Kind::Thanks, &[(Slot::P, to), (Slot::Q, person)]);
            match tale.counts.iter_mut().find(|(who, _)| *who == to) {
                Some((_, n)) => *n += gone,
                None => tale.counts.push((to, gone)),
            }
        }
        _ if lexicon::is_food(k.1) && tale.dice.chance(70) => tale.say(Kind::Eat, &slots),
        _ => tale.say(Kind::Drop, &slots),
    }
    let left = count - gone;
    if let Some((_, n)) = tale.counts.iter_mut().find(|(who, _)| *who == person) {
        *n = left;
    }
    tale.say(Kind::Left, &[(Slot::P, person), (Slot::Number, left - LEAST), k]);
}

pub(super) fn flock(tale: &mut Tale) {
    let (person, here) = (tale.somebody(), tale.here);
    let v = (Slot::Flock, tale.fresh(Class::Flock, &[]));
    let p = (Slot::P, person);
    let count = tale.dice.between(LEAST * 2, 7);
    tale.say(Kind::See, &[p, (Slot::Number, count - LEAST), v, (Slot::Place, here)]);
    let now = if tale.dice.chance(50) {
        let gone = tale.dice.between(LEAST, (count - LEAST).min(4));
        tale.say(Kind::Away, &[(Slot::Number, gone - LEAST), v]);
        count - gone
    } else {
        let come = tale.dice.between(LEAST, (MOST - count).min(3));
        tale.say(Kind::Join, &[(Slot::Number, come - LEAST), v]);
        count + come
    };
    tale.say(Kind::Flock, &[p, (Slot::Number, now - LEAST), v]);
    tale.title(Kind::TitleFlock, &[p, v, (Slot::Place, here)]);
    tale.ending(Kind::EndSaw, &[p, v, (Slot::Place, here)]);
}

pub(super) fn suffer(tale: &mut Tale) {
    let person = tale.somebody();
    let weather = match tale.weather {
        Some(weather) => weather,
        None => tale.fresh(Class::Weather, &[]),
    };
    tale.weather = Some(weather);
    tale.say(Kind::Effect, &[(Slot::P, person), (Slot::Weather, weather)]);
    tale.say(Kind::Because, &[(Slot::Weather, weather)]);
    tale.title(Kind::TitleWeather, &[(Slot::Weather, weather)]);
}

pub(super) fn show(tale: &mut Tale) {
    let Some(item) = tale.free_item(|_| true) else { return };
    let [t, c] = tale.the(item.thing);
    let p = (Slot::P, item.owner);
    match tale.other(item.owner) {
        Some(other) if tale.dice.chance(60) => tale.say(Kind::Show, &[p, t, c, (Slot::Q, other)]),
        _ => tale.say(Kind::Use, &[p, t, c]),
    }
}
