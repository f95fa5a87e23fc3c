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
        Weather: ["it was a {w} day from morning until night", "the whole day was {w}, from morning until night"],
        /// The first sentence that says where somebody is.
        Open: ["one day {p} got up early and went to the {l}", "in the morning {p} was at the {l} with nothing to do"],
        Go: ["after that {p} walked all the way to the {l}", "then {p} got up and went to the {l}"],
        GoTogether: [
            "then {p} and {q} went to the {l} together",
            "after that {p} and {q} walked all the way to the {l}",
        ],
        Meet: ["soon {p} met {q}, who had the whole day free", "there {p} met {q}, and the two of them began to talk"],
        Bye: ["then {p} said goodbye and went home for the day", "it was late, so {p} said goodbye and went home"],
        Want: ["{p} wanted a {t} more than anything else", "for a long time {p} had wanted a {t}"],
        WishCameTrue: ["it was just what {p} had wanted for so long", "{p} had wanted just that for a long time"],
        Owns: ["{p} had a {c} {t} and took it along all day", "{p} took a {c} {t} along from home that day"],
        Coins: ["{p} had {n} coins from home to spend that day"],
        Buy: ["{p} saw a {c} {t} and bought it at once", "{p} looked around for a while and then bought a {c} {t}"],
        BuyFor: ["{p} saw a {c} {t} and got it for {n} coins", "{p} looked around and bought a {c} {t} for {n} coins"],
        CoinsLeft: ["after that {p} had just {n} coins left to spend"],
        Find: ["{p} saw a {c} {t} {h} and took it along", "a {c} {t} was lying {h}, and {p} picked it up"],
        Happy: ["{p} was very happy and smiled all day", "this was good, and {p} smiled again and again"],
        Sad: ["{p} was very sad about it and began to cry", "{p} sat down on the ground and began to cry"],
        Pick: ["{p} looked around and got {n} {k} one by one", "after a while {p} had picked up {n} {k}"],
        More: ["a little later {p} got {n} more {k}, one by one", "then {p} looked again and found {n} more of them"],
        GiveMore: ["{p} smiled and gave {q} {n} more of them", "then {q} got {n} more {k} from {p} as a gift"],
        Total: ["now {p} had {n} {k} in all and counted them again", "{p} put them all together and counted {n} {k}"],
        GiveSome: ["{p} gave {n} of the {k} to {q} with a smile", "a little later {p} gave {q} {n} of the {k}"],
        Eat: ["{p} sat down on the ground and ate {n} of the {k}", "{p} was hungry and ate {n} of the {k} at once"],
        Drop: [
            "a little later {p} lost {n} of the {k} by accident",
            "{p} dropped {n} of the {k} and could not find them any more",
        ],
        Left: ["after that {p} had just {n} {k} left for later", "{p} counted them again, and {n} {k} were left"],
        Use: ["{p} played with {T} all day and would not put it down"],
        Show: ["{p} showed {T} to {q}, who looked at it again and again", "{p} let {q} look at {T} for a long time"],
        Has: ["now {p} had {T} and looked at it with a smile"],
        Give: ["{p} gave {T} to {q}, who could keep it for good", "{p} smiled and let {q} keep {T} for good"],
        Thanks: ["{p} said thank you to {q} again and again", "{p} thanked {q} with a smile and was very glad"],
        Lend: ["{p} let {q} play with {T} for a little while", "{p} gave {T} to {q} to play with for a while"],
        GiveBack: [
            "a little later {p} gave {T} back to {q} with a smile",
            "{q} got {T} back from {p} and was very glad",
        ],
        Lose: ["but then {p} could not find {T} any more", "{p} looked for {T}, but it was not there any more"],
        Discover: ["at last {p} looked {h} and saw {T} there", "after a long time {p} saw {T} lying {h}"],
        Stolen: ["a {a} had taken {T} and run away with it", "it was a {a} that had taken {T} from there"],
        Chase: ["{p} ran after the {a}, but it was faster", "{p} saw the {a} far away, but could not get there"],
        AnimalPut: ["the {a} had played with it and left it {h}", "then the {a} had put it {h} and run away"],
        Blown: ["the wind was very strong and had blown {T} away"],
        LeftAt: ["{p} had left {T} at the {l} by accident", "{T} was still at the {l}, where {p} had left it"],
        StillThere: ["{T} was still there, so {p} picked it up", "there {p} saw {T} again and picked it up"],
        Hide: ["{p} wanted to play and hid {T} {h}", "{p} put {T} {h}, where nobody could see it"],
        NotBefore: ["nobody had looked {h} before that", "before that nobody had looked {h}"],
        Break: ["{p} dropped {T} by accident, and it broke", "{T} of {p} fell to the ground and broke in two"],
        Ask: ["{p} asked {q} for some {g} to put it together again", "{p} looked for help, and {q} had some {g}"],
        Mend: [
            "{p} took some {g} and mended {T} in a little while",
            "it took a long time, but {p} mended {T} with {g}",
        ],
        Held: ["the {g} held well and made {T} as good as new"],
        Trade: ["{p} gave {T} to {q} and got {U} for it", "{q} got {T} from {p} and gave {U} for it"],
        Paint: ["{p} took a long time and painted {T} all {d}", "{p} wanted a new color and painted {T} {d}"],
        IsNow: ["now the {t} was {d} and looked as good as new", "soon the whole {t} was {d}, and it looked very nice"],
        Race: [
            "{p} and {q} ran a race all the way to the {l}",
            "{p} wanted to see who was faster and raced {q} to the {l}",
        ],
        Win: ["{p} was faster and won the race in the end", "{p} got there first and won the race"],
        Second: ["{p} came second but was not sad about it"],
        Prize: ["the prize was a {c} {t}, and it looked very nice", "{p} got a {c} {t} as a prize for the race"],
        See: [
            "{p} saw {n} {v} and sat down to look at them",
            "there were {n} {v} at the {l}, and they made much noise",
        ],
        Away: ["after a while {n} of them ran away", "then {n} of the {v} were hungry and went away"],
        Join: ["a little later {n} more of them came along", "then {n} more {v} came along from far away"],
        Flock: [
            "{p} counted them, and now there were {n} {v} in all",
            "now there were {n} {v}, and they made more noise",
        ],
        Effect: ["on the way {p} {e} and was not happy about it", "that day {p} {e} and was not glad about it"],
        Because: ["it came from the {W}, which was there all day"],
    }
    Ending {
        EndHas: [
            "in the end {p} had the {c} {t} and took it home",
            "{p} went home with the {c} {t} and was very happy",
        ],
        EndGoods: ["in the end {p} had {n} {k} and took them home"],
        EndGot: ["that is how {q} got the {c} {t} from {p}", "that was the day {p} gave the {c} {t} to {q}"],
        EndBought: ["that was the day {p} bought the {c} {t} at the {l}"],
        EndFound: ["that was the day {p} found the {c} {t} at the {l}"],
        EndBack: ["so {p} got the {c} {t} back and went home", "in the end the {c} {t} was back with {p}"],
        EndThief: ["that was the day the {a} took the {c} {t} of {p}"],
        EndMended: ["that is how {p} mended the {c} {t} with {g}"],
        EndPainted: ["that was the day {p} painted the {c} {t} all {d}"],
        EndTrade: ["that is how {p} got the {d} {u} for the {c} {t}"],
        EndWon: ["that was the day {p} won the race to the {l}"],
        EndMet: ["that was the day {p} met {q} at the {l}"],
        EndSaw: ["that was the day {p} saw the {v} at the {l}"],
    }
}
