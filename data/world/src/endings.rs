//! Questions with one right and three wrong last lines, for choosing by likelihood.
//!
//! A wrong last line has one named fact exchanged for another of its class, so that the checker refuses the story: it is well formed, and
//! only the story says that it is wrong.

use crate::check::check;
use crate::dice::Dice;
use crate::forms::Part;
use crate::mentions::{mentions, replaced};
use serde::Serialize;
use std::collections::BTreeSet;

/// Wrong last lines of a question.
const WRONG: usize = 3;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// Number of the story.
    pub id: u64,
    /// Everything before the last line, with the line break.
    pub story: String,
    pub endings: Vec<String>,
    /// Number of the right one.
    pub gold: usize,
}

/// The question of a story; `None` where fewer than three wrong last lines can be made.
pub fn ending(id: u64, text: &str, seed: u64) -> Option<Ending> {
    let (story, right) = text.split_at(text.rfind('\n')? + 1);
    let mut dice = Dice::new(seed, 5, id);
    let mut wrong = BTreeSet::new();
    for named in mentions(text).iter().filter(|named| named.part == Part::Ending) {
        for value in named.others() {
            let other = replaced(text, &named.bytes, &named.phrase(value));
            if check(&other).is_err() {
                wrong.insert(other[story.len()..].to_owned());
            }
        }
    }
    let mut endings: Vec<String> = wrong.into_iter().collect();
    dice.shuffle(&mut endings);
    endings.truncate(WRONG);
    if endings.len() < WRONG {
        return None;
    }
    endings.push(right.to_owned());
    dice.shuffle(&mut endings);
    let gold = endings.iter().position(|ending| ending == right)?;
    Some(Ending { id, story: story.to_owned(), endings, gold })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tell::{Split, tell};

    #[test]
    fn only_the_right_ending_makes_a_story_that_the_checker_accepts() {
        let mut golds = [0; 4];
        let questions = (0..60).filter_map(|id| ending(id, &tell(3, Split::Heldout, id), 3));
        for question in questions {
            for (number, last) in question.endings.iter().enumerate() {
                let verdict = check(&format!("{}{last}", question.story));
                assert_eq!(verdict.is_ok(), number == question.gold, "{last}");
            }
            golds[question.gold] += 1;
        }
        assert!(golds.iter().all(|&count| count > 3), "{golds:?}");
    }
}
