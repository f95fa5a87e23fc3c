//! What the checker knows of the world while it follows a story.

use crate::check::Problem;
use crate::forms::Kind;
use crate::template::Slots;
use std::collections::{BTreeMap, BTreeSet};

/// Where somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Known to the story, not yet anywhere.
    Unsaid,
    At(u8),
    Home,
}

/// How a mood came about; [`Kind::Happy`] and [`Kind::Sad`] have to agree with the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Glad,
    Down,
}

#[derive(Debug)]
pub(super) struct Person {
    pub(super) at: Whereabouts,
    /// The thing wished for, and whether it has been got.
    pub(super) wish: Option<(u8, bool)>,
    pub(super) coins: Option<u8>,
    pub(super) mood: Option<Mood>,
}

/// What is the matter with a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plight {
    Fine,
    /// Gone, and what the story has said about why.
    Lost(Clue),
    Hidden(u8),
    Broken,
}

/// What is known about a lost thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clue {
    None,
    /// An animal has it.
    Stolen(u8),
    /// It is in this spot.
    Spot(u8),
    Blown,
    /// Left at this place.
    LeftAt(u8),
}

#[derive(Debug)]
pub(super) struct Object {
    pub(super) colour: u8,
    pub(super) owner: u8,
    /// None while lost or hidden.
    pub(super) holder: Option<u8>,
    pub(super) plight: Plight,
    /// The holder has it on loan, or found it for the owner.
    pub(super) away: bool,
    /// Places where its holder has been with it.
    pub(super) places: BTreeSet<u8>,
}

/// What happened so far that a title or a last line may name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub(super) enum Deed {
    Bought { person: u8, colour: u8, thing: u8, place: u8 },
    Found { person: u8, colour: u8, thing: u8, place: u8 },
    Gave { from: u8, to: u8, thing: u8 },
    Traded { person: u8, colour: u8, thing: u8, got: u8 },
    WasLost { thing: u8 },
    WasHidden { thing: u8 },
    WasBroken { thing: u8 },
    CameBack { person: u8, thing: u8 },
    Mended { person: u8, thing: u8, material: u8 },
    Painted { person: u8, thing: u8, from: u8, to: u8 },
    Stole { animal: u8, thing: u8 },
    Raced { person: u8, other: u8, place: u8 },
    Won { person: u8, place: u8 },
    Met { person: u8, other: u8, place: u8 },
    Saw { person: Option<u8>, flock: u8, place: u8 },
    WasAt { person: u8, place: u8 },
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) people: BTreeMap<u8, Person>,
    pub(super) objects: BTreeMap<u8, Object>,
    /// (person, goods) → how many.
    pub(super) goods: BTreeMap<(u8, u8), u8>,
    /// Who last got or lost goods, and which.
    pub(super) counting: Option<(u8, u8)>,
    /// Animals in sight: kind, how many, place.
    pub(super) flock: Option<(u8, u8, u8)>,
    pub(super) weather: Option<u8>,
    /// The weather whose effect was told and whose name was not yet.
    pub(super) effect: Option<u8>,
    pub(super) race: Option<Race>,
    /// What the sentence before said, pronouns resolved.
    pub(super) before: Option<(Kind, Slots)>,
    /// Whom a pronoun in the next sentence means.
    pub(super) subject: Option<u8>,
    /// The last favour: who did it, to whom.
    pub(super) favour: Option<(u8, u8)>,
    /// The last thing somebody got for keeps.
    pub(super) got: Option<(u8, u8)>,
    /// Material asked for and not yet used; material used last and on what.
    pub(super) asked: Option<(u8, u8)>,
    pub(super) mended: Option<(u8, u8)>,
    /// The spot where something turned up last.
    pub(super) discovered: Option<u8>,
    /// Thing painted last.
    pub(super) painted: Option<u8>,
    pub(super) deeds: BTreeSet<Deed>,
    pub(super) problems: Vec<Problem>,
    /// Number of the sentence being judged.
    pub(super) now: usize,
    /// The line that sentence is on.
    pub(super) line: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Race {
    pub(super) runners: (u8, u8),
    pub(super) goal: u8,
    pub(super) winner: Option<u8>,
}
