//! Choosing a title and a last line among those that are true.

use super::tale::{Tale, filled};
use crate::forms::{Kind, Slot};
use crate::template::{Slots, templates_of};

/// Writes title and last line; None when nothing has happened that a last line could name.
pub(super) fn close(tale: &mut Tale) -> Option<(String, String)> {
    let mut endings: Vec<(Kind, Slots)> = tale.endings.clone();
    endings.retain(|(kind, slots)| still_true(tale, *kind, slots));
    let mut titles = tale.titles.clone();
    for item in &tale.items {
        let (p, t, c) = ((Slot::P, item.owner), (Slot::T, item.thing), (Slot::C, item.colour));
        endings.push((Kind::EndHas, filled(&[p, t, c])));
        titles.push((Kind::TitlePersonThing, filled(&[p, t])));
        titles.push((Kind::TitleColourThing, filled(&[t, c])));
    }
    if let Some(goods) = tale.goods {
        for (person, count) in &tale.counts {
            let n = (Slot::Number, count - crate::lexicon::LEAST);
            endings.push((Kind::EndGoods, filled(&[(Slot::P, *person), n, (Slot::Goods, goods)])));
        }
    }
    for place in &tale.been {
        titles.push((Kind::TitlePlace, filled(&[(Slot::P, tale.hero), (Slot::Place, *place)])));
    }
    Some((write_one(tale, &titles)?, write_one(tale, &endings)?))
}

/// What was true when it happened may not be so at the end: things change hands and colours.
fn still_true(tale: &Tale, kind: Kind, slots: &Slots) -> bool {
    let Some(item) = slots.get(Slot::T).and_then(|thing| tale.item(thing)) else { return true };
    let coloured = slots.get(Slot::C) == Some(item.colour);
    match kind {
        Kind::EndGot => coloured && slots.get(Slot::Q) == Some(item.owner),
        Kind::EndBack | Kind::EndThief => coloured && slots.get(Slot::P) == Some(item.owner),
        Kind::EndMended => coloured,
        Kind::EndTrade => {
            let got = slots.get(Slot::U).and_then(|thing| tale.item(thing));
            got.is_some_and(|got| slots.get(Slot::D) == Some(got.colour))
        }
        _ => true,
    }
}

fn write_one(tale: &mut Tale, choices: &[(Kind, Slots)]) -> Option<String> {
    let (kind, slots) = tale.dice.pick(choices)?;
    let forms: Vec<_> = templates_of(kind).filter(|form| form.is_filled_by(&slots)).collect();
    tale.dice.pick(&forms).map(|form| form.write(&slots, false, true))
}
