//! Judging texts without another model.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_names_what_is_wrong_and_nobody_names_nothing() {
        assert_ne!(of_text(Checker::World, "no story"), OK);
        assert_eq!(of_text(Checker::None, "no story"), "");
        let story = difflow_world::tell::tell(1, difflow_world::tell::Split::Sample, 0);
        assert_eq!(of_text(Checker::World, &story), OK);
    }

    #[test]
    fn a_filling_is_right_when_it_is_the_answer() {
        let gap = Gap { id: 0, left: "a".into(), answer: " red".into(), right: " bell".into() };
        assert_eq!(of_filling(&gap, " red"), OK);
        assert_eq!(of_filling(&gap, " blue"), "wanted `red`");
    }
}
