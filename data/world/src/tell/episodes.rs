//! The episodes a tale is made of: how it begins, what can come next, and how likely. What happens in each is in [`super::scenes`].

use super::tale::{Matter, Tale};
use super::{scenes, settle};
use crate::forms::{Kind, Slot};
use crate::lexicon::{self, Class, LEAST};

/// Things that a tale is about at once.
pub(super) const MOST_ITEMS: usize = 2;

/// What can happen next. Each happens once in a tale, moves excepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Episode {
    Move,
    Meet,
    Bye,
    Buy,
    Find,
    Wish,
    Give,
    Lend,
    Lose,
    Hide,
    Break,
    Trade,
    Paint,
    Race,
    Pick,
    GiveSome,
    Eat,
    Flock,
    Suffer,
    Show,
}

/// Every episode with its weight.
const EPISODES: &[(Episode, usize)] = &[
    (Episode::Move, 3),
    (Episode::Meet, 8),
    (Episode::Bye, 1),
    (Episode::Buy, 6),
    (Episode::Find, 3),
    (Episode::Wish, 3),
    (Episode::Give, 3),
    (Episode::Lend, 4),
    (Episode::Lose, 14),
    (Episode::Hide, 30),
    (Episode::Break, 7),
    (Episode::Trade, 4),
    (Episode::Paint, 4),
    (Episode::Race, 3),
    (Episode::Pick, 4),
    (Episode::GiveSome, 5),
    (Episode::Eat, 3),
    (Episode::Flock, 4),
    (Episode::Suffer, 2),
    (Episode::Show, 1),
];

/// The opening: who and where, and perhaps weather, a wish, a possession, a purse.
pub(super) fn begin(tale: &mut Tale) {
    let (hero, here) = (tale.hero, tale.here);
    if tale.dice.chance(25) {
        let weather = tale.fresh(Class::Weather, &[]);
        tale.weather = Some(weather);
        tale.say(Kind::Weather, &[(Slot::Weather, weather)]);
        tale.title(Kind::TitleWeather, &[(Slot::Weather, weather)]);
    }
    let open_first = tale.dice.chance(65);
    if open_first {
        tale.say(Kind::Open, &[(Slot::P, hero), (Slot::Place, here)]);
    }
    match tale.dice.below(10) {
        0..3 => {
            let thing = tale.fresh_thing();
            tale.say(Kind::Want, &[(Slot::P, hero), (Slot::T, thing)]);
            tale.matters.push(Matter::Wish { person: hero, thing });
            tale.done.push(Episode::Wish);
        }
        3..7 => scenes::owns(tale, hero),
        7 if lexicon::is_shop(here) => settle::purse(tale),
        _ => {}
    }
    if !open_first {
        tale.say(Kind::Open, &[(Slot::P, hero), (Slot::Place, here)]);
    }
}

/// Plays one more episode, if the state of the world allows any.
pub(super) fn play_one(tale: &mut Tale) -> bool {
    let choices: Vec<(Episode, usize)> =
        EPISODES.iter().copied().filter(|(episode, _)| allows(tale, *episode)).collect();
    let mut roll = tale.dice.below(choices.iter().map(|(_, weight)| weight).sum());
    for (episode, weight) in choices {
        if roll < weight {
            tale.done.push(episode);
            play(tale, episode);
            return true;
        }
        roll -= weight;
    }
    false
}

fn allows(tale: &Tale, episode: Episode) -> bool {
    let times = tale.done.iter().filter(|done| **done == episode).count();
    let last = tale.done.last() == Some(&episode);
    let with = tale.friend.is_some();
    let entangled = tale.friend.is_some_and(|friend| tale.matters.iter().any(|matter| matter.involves(friend)));
    let free = |sturdy: bool| {
        tale.items
            .iter()
            .any(|item| !item.busy && tale.is_here(item.owner) && (!sturdy || lexicon::is_sturdy(item.thing)))
    };
    let wish = tale.matters.iter().any(|matter| matches!(matter, Matter::Wish { .. }));
    let rich = |least: u8| tale.counts.iter().any(|(person, n)| tale.is_here(*person) && *n >= least);
    let room = tale.items.len() < MOST_ITEMS;
    // One matter at a time: what is begun is brought to its end before the next is begun.
    let calm = tale.matters.is_empty();
    match episode {
        Episode::Move => times < 2 && !last,
        Episode::Meet => !with && times < 1,
        Episode::Bye => times < 1 && with && !entangled && !last,
        Episode::Buy => times < 1 && room && lexicon::is_shop(tale.here) && !wish,
        Episode::Find => times < 1 && room && !wish && tale.items.is_empty(),
        Episode::Wish => times < 1 && calm && with && (room || free(false)),
        Episode::Give => times < 1 && with && free(false),
        Episode::Lend => times < 1 && calm && with && free(false),
        Episode::Lose => times < 1 && calm && free(false),
        Episode::Hide => times < 1 && calm && with && free(false),
        Episode::Break => times < 1 && calm && free(true),
        Episode::Paint => times < 1 && free(true),
        Episode::Trade => times < 1 && with && free(false) && room,
        Episode::Race => times < 1 && with,
        Episode::Pick => times < 1,
        Episode::GiveSome => times < 1 && with && rich(LEAST * 2),
        Episode::Eat => times < 1 && rich(LEAST * 2),
        Episode::Flock => times < 1,
        Episode::Suffer => times < 1,
        Episode::Show => times < 1 && free(false),
    }
}

fn play(tale: &mut Tale, episode: Episode) {
    match episode {
        Episode::Move => {
            let place = tale.fresh(Class::Place, &tale.been.clone());
            settle::travel(tale, place);
        }
        Episode::Meet => scenes::meet(tale),
        Episode::Bye => {
            if let Some(friend) = tale.friend.take() {
                tale.say(Kind::Bye, &[(Slot::P, friend)]);
            }
        }
        Episode::Buy => {
            let (person, thing) = (tale.somebody(), tale.fresh_thing());
            settle::buy(tale, person, thing);
            tale.maybe(30, Kind::Happy, &[(Slot::P, person)]);
        }
        Episode::Find => {
            let (person, thing) = (tale.somebody(), tale.fresh_thing());
            settle::find(tale, person, thing);
            tale.maybe(30, Kind::Happy, &[(Slot::P, person)]);
        }
        Episode::Wish => scenes::wish(tale),
        Episode::Give => scenes::give(tale),
        Episode::Lend | Episode::Lose | Episode::Hide | Episode::Break => scenes::open_matter(tale, episode),
        Episode::Trade => scenes::trade(tale),
        Episode::Paint => scenes::paint(tale),
        Episode::Race => scenes::race(tale),
        Episode::Pick => scenes::pick(tale),
        Episode::GiveSome | Episode::Eat => scenes::spend(tale, episode),
        Episode::Flock => scenes::flock(tale),
        Episode::Suffer => scenes::suffer(tale),
        Episode::Show => scenes::show(tale),
    }
}
