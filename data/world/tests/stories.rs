//! What the generator tells, the checker believes; what is changed, it does not.
#![allow(clippy::unwrap_used)]

use difflow_world::corrupt::corrupt;
use difflow_world::dice::Dice;
use difflow_world::skeleton::skeleton;
use difflow_world::tell::{Split, WORDS, tell};
use difflow_world::{ProblemKind, check};
use std::collections::BTreeSet;

fn stories(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|index| tell(11, Split::Sample, index))
}

#[test]
fn every_generated_story_passes_the_checker() {
    for text in stories(5_000) {
        let facts = check(&text).unwrap_or_else(|problems| panic!("{text}\n{problems:?}"));
        assert!(WORDS.contains(&facts.words), "{} words:\n{text}", facts.words);
    }
}

#[test]
fn a_story_depends_on_its_key_alone() {
    let forward: Vec<String> = (0..20).map(|index| tell(3, Split::Train, index)).collect();
    let backward: Vec<String> = (0..20).rev().map(|index| tell(3, Split::Train, index)).collect();
    assert!(forward.iter().eq(backward.iter().rev()));
    assert_ne!(forward[0], tell(3, Split::Heldout, 0));
    assert_ne!(forward[0], tell(4, Split::Train, 0));
}

#[test]
fn an_exchanged_fact_that_another_mention_fixes_is_refused_95_times_in_100() {
    let mut dice = Dice::new(1, 1, 1);
    let (mut tried, mut refused) = (0, 0);
    for text in stories(3_000) {
        let corruption = corrupt(&text, &mut dice).unwrap();
        if corruption.fixed_elsewhere {
            tried += 1;
            refused += usize::from(check(&corruption.text).is_err());
        }
    }
    println!("{refused} of {tried} refused");
    assert!(tried > 2_000);
    assert!(refused * 100 >= tried * 95, "{refused} of {tried}");
}

#[test]
fn a_story_that_breaks_off_is_refused_wherever_it_does() {
    for text in stories(60) {
        for end in 0..text.len() {
            assert!(check(&text[..end]).is_err(), "accepted: {}", &text[..end]);
        }
    }
}

#[test]
fn a_repeated_sentence_is_refused() {
    for text in stories(300) {
        let body = text.lines().nth(1).unwrap();
        let first = &body[..=body.find('.').unwrap()];
        let twice = text.replacen(first, &format!("{first} {first}"), 1);
        assert!(check(&twice).is_err(), "accepted: {twice}");
    }
}

#[test]
fn a_word_of_another_language_is_refused_anywhere() {
    for text in stories(40) {
        let words: Vec<&str> = text.split(' ').collect();
        for at in 0..words.len() {
            let mut foreign = words.clone();
            foreign[at] = "zug";
            assert!(check(&foreign.join(" ")).is_err());
        }
    }
}

#[test]
fn two_stories_run_together_or_with_other_spacing_are_refused() {
    let (one, other) = (tell(1, Split::Sample, 0), tell(1, Split::Sample, 1));
    assert!(check(&format!("{one}\n{other}")).is_err());
    assert!(check(&one.replacen(' ', "  ", 1)).is_err());
    assert!(check(&one.replacen(". ", ".", 1)).is_err());
    assert!(check(&one.replacen('\n', "\n\n", 1)).is_err());
    assert!(check(&one.to_lowercase()).is_err());
}

#[test]
fn any_bytes_are_judged_without_a_panic() {
    let mut dice = Dice::new(2, 2, 2);
    let pieces: Vec<String> = stories(30)
        .flat_map(|text| text.split_inclusive(['.', ' ', '\n', ',']).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for _ in 0..3_000 {
        let text: String = (0..80).map(|_| pieces[dice.below(pieces.len())].as_str()).collect();
        assert!(check(&text).is_err());
    }
    // Sentences of many stories in any order: read without fail, so the simulation itself meets nonsense.
    let sentences: Vec<String> = stories(200)
        .flat_map(|text| {
            text.lines()
                .skip(1)
                .flat_map(|line| line.split_inclusive(". ").map(|s| s.trim().to_owned()).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        })
        .collect();
    for _ in 0..3_000 {
        let body: Vec<&str> = (0..10).map(|_| sentences[dice.below(sentences.len())].as_str()).collect();
        assert!(check(&format!("The red kite\n{}\nIn the end Mia had the red kite.", body.join(" "))).is_err());
    }
    for text in ["", "\n", "\n\n\n", ".", "É\n é.\n ß.", "A\0b\n.\n."] {
        assert!(check(text).is_err());
    }
}

#[test]
fn no_held_out_story_has_the_skeleton_of_many_others() {
    let seen: BTreeSet<String> = (0..5_000).map(|index| skeleton(&tell(11, Split::Train, index))).collect();
    let known = (0..500).filter(|index| seen.contains(&skeleton(&tell(11, Split::Heldout, *index)))).count();
    assert!(known * 100 < 500 * 2, "{known} of 500 skeletons were seen");
}

/// A story by hand in which every kind of corruption has its place.
const STORY: &str = "Mia and the kite
It was a windy day from morning until night. For a long time Mia had wanted a kite. One day she got up early and went to the market. Mia had nine coins from home to spend that day. She saw a red kite and got it for four coins. After that she had just five coins left to spend. It was just what Mia had wanted for so long. Soon Mia met Tom, who had the whole day free. After that Mia and Tom walked all the way to the hill. Mia looked for the kite, but it was not there any more. The wind was very strong and had blown the kite away. At last Tom looked in the grass and saw the red kite there. A little later Tom gave the kite back to Mia with a smile. Mia said thank you to Tom again and again.
That was the day Mia bought the red kite at the market.";

#[test]
fn each_kind_of_wrong_fact_is_refused_for_its_reason() {
    check(STORY).unwrap();
    let cases = [
        ("went to the market", "went to the park", ProblemKind::Contradiction),
        ("had nine coins", "had eight coins", ProblemKind::Contradiction),
        ("for four coins", "for three coins", ProblemKind::Contradiction),
        ("saw a red kite", "saw a blue kite", ProblemKind::Contradiction),
        ("wanted a kite", "wanted a drum", ProblemKind::Contradiction),
        ("After that Mia and Tom", "After that Mia and Ben", ProblemKind::Contradiction),
        ("Soon Mia met Tom", "Soon Mia met Ben", ProblemKind::Contradiction),
        ("One day she", "One day he", ProblemKind::Contradiction),
        ("a windy day", "a rainy day", ProblemKind::Contradiction),
        ("Mia said thank you to Tom", "Tom said thank you to Mia", ProblemKind::Contradiction),
        (" Mia looked for the kite, but it was not there any more.", "", ProblemKind::Contradiction),
        (" Soon Mia met Tom, who had the whole day free.", "", ProblemKind::Contradiction),
        (
            " A little later Tom gave the kite back to Mia with a smile. Mia said thank you to Tom again and again.",
            "",
            ProblemKind::Unresolved,
        ),
        ("Mia and the kite", "Mia and the drum", ProblemKind::Title),
        ("Mia bought the red kite at the market", "Mia bought the red kite at the fair", ProblemKind::Ending),
        ("Mia bought the red", "Tom bought the red", ProblemKind::Ending),
        ("Mia met Tom", "Mia kissed Tom", ProblemKind::Unknown),
        ("the market.", "the market", ProblemKind::Unknown),
    ];
    for (from, to, kind) in cases {
        let problems = check(&STORY.replacen(from, to, 1)).expect_err(from);
        assert!(problems.iter().any(|problem| problem.kind == kind), "{from} -> {to}: {problems:?}");
    }
}
