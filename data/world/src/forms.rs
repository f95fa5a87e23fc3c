//! The sentence forms of the world, as data: for each kind of sentence, the ways to say it.
//!
//! A template is lower-case text with slots in braces. Slot letters are those of [`Slot`]; `{T}` and `{U}` are definite
//! references ("the kite" or "the red kite") to the thing in slot `t` or `u`, whose colour is in slot `c` or `d`. The first person of a template may be
//! said as a pronoun, unless the template starts two people with "and". The generator picks among these at random; the checker
//! tries them all. Everything else about them (what may follow what) is decided twice, independently, in
//! [`crate::tell`] and in [`crate::judge`].

/// A slot of a sentence. Which class of words it takes is fixed by [`Slot::class`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The person who acts.
    P,
    /// The other person.
    Q,
    /// The colour of `T`.
    C,
    /// The colour of `U`, or the new colour of `T`.
    D,
    T,
    U,
    Place,
    Number,
    Goods,
    Flock,
    Weather,
    Animal,
    Spot,
    Material,
}

impl Slot {
    /// How many slots there are.
    pub const COUNT: usize = 14;
}

/// Where in a story a kind of sentence may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Title,
    Body,
    Ending,
}

macro_rules! forms {
    ($($part:ident { $($(#[$doc:meta])* $kind:ident: [$($say:literal),+ $(,)?],)+ })+) => {
        /// What a sentence says, whichever way it says it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($($(#[$doc])* $kind,)+)+ }

        /// Every kind with its part and its templates.
        pub static FORMS: &[(Kind, Part, &[&str])] = &[
            $($((Kind::$kind, Part::$part, &[$($say),+]),)+)+
        ];
    };
}

forms! {
    Title {
        TitlePersonThing: ["{p} and the {t}", "the {t} of {p}"],
        TitleColourThing: ["the {c} {t}"],
        TitlePeople: ["{p} and {q}", "a day with {p} and {q}"],
        TitlePlace: ["a day at the {l}", "{p} at the {l}"],
        TitleGoods: ["{p} and the {k}", "the {k} of {p}"],
        TitleLost: ["the lost {t}"],
        TitleHidden: ["the hidden {t}"],
        TitleBroken: ["the broken {t}"],
        TitlePainted: ["how the {t} got a new color"],
        TitleGift: ["a gift for {q}", "a {t} for {q}"],
        TitleThief: ["the {a} and the {t}"],
        TitleWeather: ["a {w} day"],
        TitleRace: ["the race of {p} and {q}", "the race to the {l}"],
        TitleTrade: ["the {t} and the {u}"],
        TitleFlock: ["the {v} at the {l}", "{p} and the {v}"],
    }
    Body {
        /// The weather of the whole story.
        Weather: ["it was a {w} day", "the day was {w}", "the morning was {w}"],
        /// The first sentence that says where somebody is.
        Open: [
            "one day {p} went to the {l}", "{p} was at the {l}", "in the morning {p} walked to the {l}",
            "early that day {p} came to the {l}",
        ],
        Go: ["then {p} went to the {l}", "after that {p} walked to the {l}", "later {p} ran to the {l}"],
        GoTogether: [
            "then {p} and {q} went to the {l}", "{p} and {q} walked to the {l}", "later {p} and {q} ran to the {l}",
        ],
        Meet: ["there {p} met {q}", "{p} met {q} at the {l}", "at the {l} {p} saw {q}", "soon {p} met {q}"],
        Bye: ["then {p} went home", "{p} said goodbye and went home"],
        Want: ["{p} wanted a {t}", "{p} wished for a {t}", "{p} needed a {t}"],
        WishCameTrue: ["it was just what {p} wanted", "it was the {t} that {p} wanted"],
        Owns: ["{p} had a {c} {t}", "{p} had a {t}, and it was {c}", "{p} owned a {c} {t}"],
        Coins: ["{p} had {n} coins", "{p} took {n} coins along"],
        Buy: ["{p} bought a {c} {t}", "{p} saw a {c} {t} and bought it", "{p} bought a {c} {t} at the {l}"],
        BuyFor: [
            "{p} bought a {c} {t} for {n} coins", "{p} paid {n} coins for a {c} {t}",
            "{p} saw a {c} {t} and paid {n} coins for it",
        ],
        CoinsLeft: ["{p} had {n} coins left", "now {p} had only {n} coins"],
        Find: ["{p} found a {c} {t} {h}", "{p} saw a {c} {t} {h} and took it", "a {c} {t} was {h}, and {p} took it"],
        Happy: ["{p} was happy", "{p} smiled", "{p} was very glad"],
        Sad: ["{p} was sad", "{p} cried", "{p} felt bad"],
        Pick: ["{p} picked {n} {k}", "{p} got {n} {k}", "at the {l} {p} got {n} {k}"],
        More: ["then {p} found {n} more", "{p} got {n} more {k}", "soon {p} picked {n} more {k}"],
        GiveMore: ["{p} gave {q} {n} more", "{q} got {n} more {k} from {p}"],
        Total: ["now {p} had {n} {k}", "that made {n} {k}", "{p} counted {n} {k}", "in all {p} had {n} {k}"],
        GiveSome: ["{p} gave {n} {k} to {q}", "{p} gave {q} {n} of the {k}"],
        Eat: ["{p} ate {n} of the {k}", "{p} ate {n} {k}"],
        Drop: ["{p} lost {n} of the {k}", "{p} dropped {n} {k} on the way"],
        Left: ["{p} had {n} {k} left", "now {p} had only {n} {k}", "{n} {k} were left"],
        Use: ["{p} played with {T}", "{p} carried {T} all day", "{p} liked {T} very much"],
        Show: ["{p} showed {T} to {q}", "{q} looked at {T} of {p}"],
        Has: ["now {p} had {T}", "now {T} was with {p}"],
        Give: ["{p} gave {T} to {q}", "{p} gave {q} {T}", "{p} let {q} keep {T}"],
        Thanks: ["{p} thanked {q}", "{p} said thank you to {q}"],
        Lend: ["{p} lent {T} to {q}", "{p} lent {q} {T}", "{p} let {q} play with {T}"],
        GiveBack: ["{p} gave {T} back to {q}", "{q} got {T} back from {p}", "then {p} gave {q} {T} back"],
        Lose: ["{p} lost {T}", "{p} could not find {T}", "then {T} of {p} was gone"],
        Discover: ["{p} found {T} {h}", "{p} looked {h} and found {T}", "then {p} saw {T} {h}"],
        Stolen: ["a {a} had taken {T}", "it was a {a} that took {T}", "a {a} had run off with {T}"],
        AnimalPut: ["the {a} had put it {h}", "the {a} had left it {h}"],
        Blown: ["the wind had blown {T} away", "the wind took {T}"],
        LeftAt: ["{p} had left {T} at the {l}", "{T} was still at the {l}"],
        StillThere: ["{p} found {T} there", "{T} was there, and {p} took it"],
        Hide: ["{p} hid {T} {h}", "then {p} put {T} {h} to hide it"],
        Search: ["{p} looked {h}, but it was not there", "first {p} looked {h}"],
        Break: ["{p} dropped {T}, and it broke", "then {T} fell and broke", "{T} of {p} broke"],
        Ask: ["{p} asked {q} for some {g}", "{p} got some {g} from {q}"],
        Mend: ["{p} mended {T} with {g}", "{p} used {g} to mend {T}"],
        Held: ["the {g} held well", "the {g} made {T} as good as new"],
        Trade: ["{p} gave {T} to {q} for {U}", "{p} traded {T} for {U}", "{p} and {q} traded {T} for {U}"],
        Paint: ["{p} painted {T} {d}", "then {p} painted {T} all {d}"],
        IsNow: ["now the {t} was {d}", "soon the {t} was all {d}"],
        Race: ["{p} and {q} ran a race to the {l}", "{p} raced {q} to the {l}"],
        Win: ["{p} won the race", "{p} was the first there", "{p} was faster"],
        Second: ["{p} came second", "{p} was slower"],
        Prize: ["the prize was a {c} {t}", "{p} got a {c} {t} as a prize"],
        See: ["{p} saw {n} {v}", "{p} saw {n} {v} at the {l}", "there were {n} {v} at the {l}"],
        Away: ["{n} of them ran away", "then {n} of the {v} went away"],
        Join: ["then {n} more came", "soon {n} more {v} came"],
        Flock: ["now there were {n} {v}", "{p} counted {n} {v}"],
        Effect: ["{p} {e}", "on the way {p} {e}"],
        Because: ["that came from the {W}", "it was because of the {W}"],
    }
    Ending {
        EndHas: ["in the end {p} had the {c} {t}", "so the {c} {t} stayed with {p}", "{p} went home with the {c} {t}"],
        EndGoods: ["in the end {p} had {n} {k}", "{p} came home with {n} {k}"],
        EndGot: ["that is how {q} got the {c} {t} from {p}", "so {p} gave the {c} {t} to {q}"],
        EndBought: ["that was the day {p} bought the {c} {t} at the {l}"],
        EndFound: ["that was the day {p} found the {c} {t} at the {l}"],
        EndBack: ["so {p} got the {c} {t} back", "in the end the {c} {t} was back with {p}"],
        EndMended: ["that is how {p} mended the {c} {t} with {g}"],
        EndPainted: ["that is how the {c} {t} became {d}", "so {p} made the {c} {t} {d}"],
        EndTrade: ["that is how {p} got the {d} {u} for the {c} {t}"],
        EndWon: ["that was the day {p} won the race to the {l}"],
        EndMet: ["that was the day {p} met {q} at the {l}"],
        EndSaw: ["that was the day {p} saw the {v} at the {l}"],
    }
}
