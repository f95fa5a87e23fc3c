//! How open matters end, and the steps that episodes share: buying, finding, giving, going somewhere.

use super::tale::{Matter, Tale};
use crate::forms::{Kind, Slot};
use crate::lexicon::{self, Class, LEAST, MOST};

/// Brings one open matter to its end.
pub(super) fn settle_one(tale: &mut Tale) {
    let which = tale.dice.below(tale.matters.len());
    let matter = tale.matters.remove(which);
    match matter {
        Matter::Loan { from, to, thing } => {
            give_back(tale, to, from, thing);
        }
        Matter::Lost { owner, thing } => lost(tale, owner, thing),
        Matter::Hidden { owner, seeker, thing, spot } => {
            discover(tale, seeker, thing, spot);
            give_back(tale, seeker, owner, thing);
        }
        Matter::Broken { owner, thing } => broken(tale, owner, thing),
        Matter::Wish { person, thing } => wish(tale, person, thing),
    }
}

fn free(tale: &mut Tale, thing: u8) {
    let here = tale.here;
    if let Some(item) = tale.item_mut(thing) {
        item.busy = false;
        item.places = vec![here];
    }
}

fn give_back(tale: &mut Tale, from: u8, to: u8, thing: u8) {
    let [t, c] = tale.the(thing);
    tale.say(Kind::GiveBack, &[(Slot::P, from), (Slot::Q, to), t, c]);
    tale.ending(Kind::EndBack, &[(Slot::P, to), t, c]);
    free(tale, thing);
}

fn discover(tale: &mut Tale, person: u8, thing: u8, spot: u8) {
    let [t, c] = tale.the(thing);
    tale.say(Kind::Discover, &[(Slot::P, person), t, c, (Slot::Spot, spot)]);
    tale.maybe(40, Kind::NotBefore, &[(Slot::Spot, spot)]);
}

fn lost(tale: &mut Tale, owner: u8, thing: u8) {
    let [t, c] = tale.the(thing);
    let been = tale.item(thing).map(|item| item.places.clone()).unwrap_or_default();
    let behind: Vec<u8> = been.into_iter().filter(|place| *place != tale.here).collect();
    let spot = tale.fresh(Class::Spot, &[]);
    match tale.dice.below(8) {
        0..3 if !behind.is_empty() => {
            let Some(place) = tale.dice.pick(&behind) else { return };
            tale.say(Kind::LeftAt, &[(Slot::P, owner), t, c, (Slot::Place, place)]);
            travel(tale, place);
            tale.say(Kind::StillThere, &[(Slot::P, owner), t, c]);
            tale.ending(Kind::EndBack, &[(Slot::P, owner), t, c]);
            free(tale, thing);
            tale.maybe(40, Kind::Happy, &[(Slot::P, owner)]);
            return;
        }
        0 | 3..7 => {
            let animal = tale.fresh(Class::Animal, &[]);
            let a = (Slot::Animal, animal);
            tale.say(Kind::Stolen, &[a, t, c]);
            tale.maybe(60, Kind::Chase, &[(Slot::P, owner), a]);
            tale.say(Kind::AnimalPut, &[a, (Slot::Spot, spot)]);
            tale.title(Kind::TitleThief, &[a, t]);
            tale.ending(Kind::EndThief, &[a, t, c, (Slot::P, owner)]);
        }
        1 if tale.weather.is_none_or(|weather| weather == lexicon::WIND) => {
            tale.weather = Some(lexicon::WIND);
            tale.say(Kind::Blown, &[t, c]);
        }
        _ => {}
    }
    match tale.other(owner) {
        Some(helper) if tale.dice.chance(60) => {
            discover(tale, helper, thing, spot);
            give_back(tale, helper, owner, thing);
            tale.maybe(40, Kind::Thanks, &[(Slot::P, owner), (Slot::Q, helper)]);
        }
        _ => {
            discover(tale, owner, thing, spot);
            tale.ending(Kind::EndBack, &[(Slot::P, owner), t, c]);
            free(tale, thing);
            tale.maybe(40, Kind::Happy, &[(Slot::P, owner)]);
        }
    }
}

fn broken(tale: &mut Tale, owner: u8, thing: u8) {
    let [t, c] = tale.the(thing);
    let material = tale.fresh(Class::Material, &[]);
    let g = (Slot::Material, material);
    let mut mender = owner;
    if let Some(helper) = tale.other(owner) {
        match tale.dice.below(3) {
            0 => tale.say(Kind::Ask, &[(Slot::P, owner), (Slot::Q, helper), g]),
            1 => mender = helper,
            _ => {}
        }
    }
    tale.say(Kind::Mend, &[(Slot::P, mender), t, c, g]);
    tale.maybe(70, Kind::Held, &[g, t, c]);
    if mender == owner {
        tale.maybe(30, Kind::Happy, &[(Slot::P, owner)]);
    } else {
        tale.maybe(50, Kind::Thanks, &[(Slot::P, owner), (Slot::Q, mender)]);
    }
    tale.ending(Kind::EndMended, &[(Slot::P, mender), t, c, g]);
    if let Some(item) = tale.item_mut(thing) {
        item.busy = false;
    }
}

fn wish(tale: &mut Tale, person: u8, thing: u8) {
    let p = (Slot::P, person);
    match tale.item(thing).map(|item| item.owner) {
        Some(owner) => give(tale, owner, person, thing),
        None => {
            if !lexicon::is_shop(tale.here) && tale.dice.chance(50) {
                let shops: Vec<u8> = (0..Class::Place.words().len() as u8).filter(|l| lexicon::is_shop(*l)).collect();
                if let Some(shop) = tale.dice.pick(&shops) {
                    travel_together(tale, shop);
                }
            }
            if lexicon::is_shop(tale.here) { buy(tale, person, thing) } else { find(tale, person, thing) }
        }
    }
    if let Some(item) = tale.item_mut(thing) {
        item.busy = false;
    }
    tale.maybe(80, Kind::WishCameTrue, &[p, (Slot::T, thing)]);
}

/// Goes to another place; a friend who has no part in an open matter may stay behind.
pub(super) fn travel(tale: &mut Tale, place: u8) {
    let entangled = tale.friend.is_some_and(|friend| tale.matters.iter().any(|matter| matter.involves(friend)));
    let owns_lost = tale.friend.is_some_and(|friend| tale.items.iter().any(|item| item.busy && item.owner == friend));
    if tale.friend.is_some() && !entangled && !owns_lost && tale.dice.chance(20) {
        tale.friend = None;
    }
    travel_together(tale, place);
}

fn travel_together(tale: &mut Tale, place: u8) {
    let (p, l) = ((Slot::P, tale.hero), (Slot::Place, place));
    match tale.friend {
        Some(friend) => tale.say(Kind::GoTogether, &[p, (Slot::Q, friend), l]),
        None => tale.say(Kind::Go, &[p, l]),
    }
    tale.walk(place);
}

/// Tells how many coins the hero has.
pub(super) fn purse(tale: &mut Tale) {
    let coins = tale.dice.between(LEAST * 2, MOST);
    tale.coins = Some(coins);
    tale.say(Kind::Coins, &[(Slot::P, tale.hero), (Slot::Number, coins - LEAST)]);
}

/// Buys a new thing at the shop where the tale is.
pub(super) fn buy(tale: &mut Tale, person: u8, thing: u8) {
    let colour = tale.fresh_colour();
    let (p, place) = ((Slot::P, person), (Slot::Place, tale.here));
    let slots = [p, (Slot::T, thing), (Slot::C, colour)];
    if person == tale.hero && tale.coins.is_none() && tale.dice.chance(40) {
        purse(tale);
    }
    match tale.coins {
        Some(coins) if person == tale.hero && coins >= LEAST * 2 => {
            let price = tale.dice.between(LEAST, (coins - LEAST).min(5));
            tale.say(Kind::BuyFor, &[slots[0], slots[1], slots[2], (Slot::Number, price - LEAST)]);
            tale.coins = Some(coins - price);
            tale.say(Kind::CoinsLeft, &[p, (Slot::Number, coins - price - LEAST)]);
        }
        _ => tale.say(Kind::Buy, &[slots[0], slots[1], slots[2], place]),
    }
    tale.gains(person, thing, colour);
    tale.ending(Kind::EndBought, &[slots[0], slots[1], slots[2], place]);
}

/// Finds a new thing.
pub(super) fn find(tale: &mut Tale, person: u8, thing: u8) {
    let (colour, spot) = (tale.fresh_colour(), tale.fresh(Class::Spot, &[]));
    let slots = [(Slot::P, person), (Slot::T, thing), (Slot::C, colour)];
    tale.say(Kind::Find, &[slots[0], slots[1], slots[2], (Slot::Spot, spot)]);
    tale.gains(person, thing, colour);
    tale.ending(Kind::EndFound, &[slots[0], slots[1], slots[2], (Slot::Place, tale.here)]);
}

/// Gives a thing away for good.
pub(super) fn give(tale: &mut Tale, from: u8, to: u8, thing: u8) {
    let [t, c] = tale.the(thing);
    tale.say(Kind::Give, &[(Slot::P, from), (Slot::Q, to), t, c]);
    tale.hand_over(thing, to);
    tale.title(Kind::TitleGift, &[(Slot::Q, to), t]);
    tale.ending(Kind::EndGot, &[(Slot::P, from), (Slot::Q, to), t, c]);
    if tale.dice.chance(50) {
        tale.maybe(70, Kind::Thanks, &[(Slot::P, to), (Slot::Q, from)]);
    } else {
        tale.maybe(50, Kind::Happy, &[(Slot::P, to)]);
    }
}
