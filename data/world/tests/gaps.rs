//! A gap is filled by one answer only, and only when both sides are seen.
#![allow(clippy::unwrap_used)]

use difflow_text::Gap;
use difflow_world::gaps::{LEAST_CHOICES, choose_gaps, gaps};
use difflow_world::lexicon::Class;
use difflow_world::mentions::mentions;
use difflow_world::tell::{Split, tell};
use difflow_world::{check, check_beginning};

/// All ways to fill the gap with words of the same classes, the answer included.
fn fillings(gap: &Gap) -> Vec<String> {
    let text = format!("{}{}{}", gap.left, gap.answer, gap.right);
    let inside = gap.left.len()..gap.left.len() + gap.answer.len();
    let named: Vec<_> = mentions(&text).into_iter().filter(|named| inside.contains(&named.bytes.start)).collect();
    let mut all = vec![String::new()];
    for one in &named {
        let words: &[&str] = Class::words(one.class);
        all = all.iter().flat_map(|before| words.iter().map(move |word| format!("{before} {word}"))).collect();
    }
    let space = gap.answer.starts_with(' ');
    all.iter().map(|filling| if space { filling.clone() } else { filling.trim_start().to_owned() }).collect()
}

#[test]
fn any_other_filling_makes_the_story_wrong_and_the_left_side_leaves_it_open() {
    let stories: Vec<String> = (0..80).map(|index| tell(11, Split::Sample, index)).collect();
    let chosen = choose_gaps(&stories, 80, 1);
    assert!(chosen.len() > 70, "only {} of 80 stories have a gap", chosen.len());
    for gap in &chosen {
        let all = fillings(gap);
        assert!(all.contains(&gap.answer), "{gap:?}");
        assert!((1..=4).contains(&gap.answer.split_whitespace().count()), "{gap:?}");
        let to_stop = &gap.right[..=gap.right.find('.').unwrap()];
        let mut open = 0;
        for filling in &all {
            let right = check(&format!("{}{filling}{}", gap.left, gap.right)).is_ok();
            assert_eq!(right, *filling == gap.answer, "{filling:?} in {gap:?}");
            open += usize::from(check_beginning(&format!("{}{filling}{to_stop}", gap.left)).is_ok());
        }
        assert!(open >= LEAST_CHOICES, "the left side decides: {gap:?}");
    }
}

#[test]
fn a_word_named_on_the_left_is_no_gap() {
    let mut seen = 0;
    for index in 0..20 {
        for gap in gaps(0, &tell(11, Split::Sample, index)) {
            let first = gap.answer.split_whitespace().next().unwrap().to_owned();
            if !["in", "on", "under", "behind"].contains(&first.as_str()) {
                seen += 1;
                assert!(!gap.left.split([' ', '\n', '.', ',']).any(|word| word == first), "{gap:?}");
            }
        }
    }
    assert!(seen > 20, "only {seen} gaps");
}
