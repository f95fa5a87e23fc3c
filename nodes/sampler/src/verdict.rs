//! Judging texts without another model.

use std::collections::BTreeSet;

use difflow_world::Gap;

use crate::config::Checker;

/// `ok`, what is wrong with a text from nothing, or nothing when nobody checks.
pub fn of_text(checker: Checker, text: &str) -> String {
    match checker {
        Checker::None => String::new(),
        Checker::World => match difflow_world::check(text) {
            Ok(_) => OK.to_owned(),
            Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        },
    }
}

/// `ok`, or the answer that was wanted in a gap.
pub fn of_filling(gap: &Gap, filling: &str) -> String {
    if filling == gap.answer { OK.to_owned() } else { format!("wanted `{}`", gap.answer.trim()) }
}

/// The verdict on a text with which nothing is wrong.
pub const OK: &str = "ok";

/// Different pairs of neighbouring words over all pairs, of all texts together: low when a model repeats itself. NaN when
/// there is no pair.
pub fn distinct_2<'a>(texts: impl IntoIterator<Item = &'a str>) -> f64 {
    let (mut different, mut all) = (BTreeSet::new(), 0u64);
    for text in texts {
        let words: Vec<&str> = text.split_whitespace().collect();
        all += words.windows(2).len() as u64;
        different.extend(words.windows(2).map(|pair| (pair[0], pair[1])));
    }
    different.len() as f64 / all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_pairs_lower_distinct_2_across_texts() {
        assert_eq!(distinct_2(["a b c", "d"]), 1.0);
        assert_eq!(distinct_2(["a b a b", "a b"]), 0.5);
        assert!(distinct_2(["a"]).is_nan());
    }

    #[test]
    fn the_world_names_what_is_wrong_and_nobody_names_nothing() {
        assert_ne!(of_text(Checker::World, "no story"), OK);
        assert_eq!(of_text(Checker::None, "no story"), "");
        let story = "The broken bell\nIn the morning Rosa was at the river with nothing to do. Soon Rosa met Ben, who had the whole \
                     day free. Ben took a red bell along from home that day. Ben dropped the bell by accident, and it broke. He asked \
                     Rosa for some glue to put it together again. It took a long time, but he mended the red bell with glue.\n\
                     That is how Ben mended the red bell with glue.";
        assert_eq!(of_text(Checker::World, story), OK);
    }

    #[test]
    fn a_filling_is_right_when_it_is_the_answer() {
        let gap = Gap { id: 0, left: "a".into(), answer: " red".into(), right: " bell".into() };
        assert_eq!(of_filling(&gap, " red"), OK);
        assert_eq!(of_filling(&gap, " blue"), "wanted `red`");
    }
}
