//! Instructions in the world and their answers: what a finetuned model is asked, and whether it did as it was told.
//!
//! Three tasks: tell a story with given people, a thing and a last line; answer a question about a story; write a story again without its one
//! mistake. A prompt says everything that its answer is judged by, so the checker needs nothing else.

use crate::check::{Facts, check};
use crate::corrupt::corrupt;
use crate::dice::Dice;
use crate::tell::{Split, tell};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Tell,
    Answer,
    Repair,
}

impl Task {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Task; 3] = [Task::Tell, Task::Answer, Task::Repair];

    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Task::Tell => "tell",
            Task::Answer => "answer",
            Task::Repair => "repair",
        }
    }
}

/// An instruction with an answer that fulfils it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    pub task: Task,
    pub prompt: String,
    pub response: String,
}

const TELL: &str = "Tell a story with ";
const ENDS: &str = " that ends: ";
const REPAIR: &str = "Write this story again without the mistake.\n";
/// What is asked of a thing, and what the answer is.
const QUESTIONS: [(&str, &str); 2] = [("Who had the ", " in the end?\n"), ("What color was the ", " in the end?\n")];

/// Instruction `index` of a split: the same arguments give the same one on every machine. The tasks take turns.
pub fn instruction(seed: u64, split: Split, index: u64) -> Instruction {
    let task = Task::ALL[(index % 3) as usize];
    // Another story where one has no thing to ask about, or no mistake that shows.
    let mut attempts = 0..;
    loop {
        let attempt = attempts.next().unwrap_or_default();
        let key = index + (attempt << 32);
        let (story, mut dice) =
            (tell(seed, split, key), Dice::new(seed, 9, key ^ (u64::from(split == Split::AskedHeldout) << 63)));
        let Ok(facts) = check(&story) else { continue };
        let made = match task {
            Task::Tell => tell_prompt(&story, &facts, &mut dice).map(|prompt| (prompt, story)),
            Task::Answer => question(&story, &facts, &mut dice),
            Task::Repair => corrupt(&story, &mut dice)
                .filter(|wrong| check(&wrong.text).is_err() && changed_sentences(&wrong.text, &story) == Some(1))
                .map(|wrong| (format!("{REPAIR}{}", wrong.text), story)),
        };
        if let Some((prompt, response)) = made {
            return Instruction { task, prompt, response };
        }
    }
}

fn tell_prompt(story: &str, facts: &Facts, dice: &mut Dice) -> Option<String> {
    let mut wanted: Vec<String> = facts.people.iter().map(|person| (*person).to_owned()).collect();
    let (colour, thing, _) = dice.pick(&facts.things)?;
    wanted.push(format!("the {colour} {thing}"));
    Some(format!("{TELL}{}{ENDS}{}", wanted.join(", "), last_line(story)))
}

fn question(story: &str, facts: &Facts, dice: &mut Dice) -> Option<(String, String)> {
    let (_, thing, _) = dice.pick(&facts.things)?;
    let which = dice.below(QUESTIONS.len());
    let (before, behind) = QUESTIONS[which];
    Some((format!("{before}{thing}{behind}{story}"), answer(facts, which, thing)?))
}

/// The answer to a question about a thing; `None` where the story does not say.
fn answer(facts: &Facts, which: usize, thing: &str) -> Option<String> {
    let (colour, _, holder) = facts.things.iter().find(|(_, name, _)| *name == thing)?;
    Some(format!("{}.", if which == 0 { (*holder)?.to_owned() } else { crate::template::capitalise(colour) }))
}

fn last_line(story: &str) -> &str {
    story.trim().lines().last().unwrap_or_default()
}

/// Title and sentences.
fn sentences(story: &str) -> Vec<&str> {
    let lines = story.trim().lines();
    lines.flat_map(|line| line.split(". ").map(|sentence| sentence.trim_end_matches('.'))).collect()
}

/// Sentences that differ; `None` where there are not equally many.
fn changed_sentences(one: &str, other: &str) -> Option<usize> {
    let (one, other) = (sentences(one), sentences(other));
    (one.len() == other.len()).then(|| one.iter().zip(&other).filter(|(a, b)| a != b).count())
}

/// Judges an answer by its prompt.
///
/// # Errors
/// What is wrong with it, or that the prompt is none of the world's.
pub fn judge(prompt: &str, response: &str) -> Result<(), String> {
    let response = response.trim();
    let story = |text: &str| {
        check(text).map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    if let Some((wanted, ending)) = prompt.strip_prefix(TELL).and_then(|rest| rest.split_once(ENDS)) {
        let facts = story(response)?;
        if last_line(response) != ending.trim() {
            return Err(format!("last line: `{}`, wanted `{}`", last_line(response), ending.trim()));
        }
        for one in wanted.split(", ") {
            let told = match one.strip_prefix("the ") {
                Some(thing) => facts.things.iter().any(|(colour, name, _)| format!("{colour} {name}") == thing),
                None => facts.people.contains(&one),
            };
            if !told {
                return Err(format!("missing: {one} is not in the story"));
            }
        }
        return Ok(());
    }
    for (which, (before, behind)) in QUESTIONS.into_iter().enumerate() {
        let Some((thing, text)) = prompt.strip_prefix(before).and_then(|rest| rest.split_once(behind)) else {
            continue;
        };
        let wanted =
            answer(&story(text)?, which, thing).ok_or_else(|| format!("the story has no answer for the {thing}"))?;
        return if response == wanted { Ok(()) } else { Err(format!("answer: `{response}`, wanted `{wanted}`")) };
    }
    let Some(wrong) = prompt.strip_prefix(REPAIR) else {
        return Err("the prompt is none of the world's".to_owned());
    };
    story(response)?;
    match changed_sentences(wrong, response) {
        Some(1) => Ok(()),
        Some(n) => Err(format!("repair: {n} sentences are others, wanted 1")),
        None => Err("repair: not as many sentences as the story has".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all(count: u64) -> Vec<Instruction> {
        (0..count).map(|index| instruction(5, Split::Asked, index)).collect()
    }

    #[test]
    fn every_instruction_is_fulfilled_by_its_own_answer() {
        for one in all(150) {
            assert_eq!(judge(&one.prompt, &one.response), Ok(()), "{one:?}");
        }
    }

    /// An answer to another prompt of the same task, the story of the prompt itself, and an answer that goes on: each is refused.
    #[test]
    fn what_was_not_asked_for_is_refused() {
        let all = all(150);
        for task in Task::ALL {
            let of: Vec<&Instruction> = all.iter().filter(|one| one.task == task).collect();
            assert_eq!(of.len(), 50);
            let pairs = of.iter().zip(of.iter().cycle().skip(1));
            let wrong = pairs.filter(|(one, other)| judge(&one.prompt, &other.response).is_err()).count();
            let least = if task == Task::Answer { 35 } else { 50 };
            assert!(wrong >= least, "{task:?}: only {wrong} of 50 answers to another prompt are refused");
            for one in of {
                assert!(judge(&one.prompt, &format!("{}\n{}", one.response, one.response)).is_err(), "{one:?}");
                assert!(judge(&one.prompt, "").is_err());
            }
        }
        for one in all.iter().filter(|one| one.task == Task::Repair) {
            let unchanged = one.prompt.strip_prefix(REPAIR).unwrap();
            assert!(judge(&one.prompt, unchanged).is_err());
        }
        assert!(judge("Sing.", "La.").is_err());
    }

    #[test]
    fn instructions_depend_on_seed_split_and_number_and_are_not_those_of_the_other_split() {
        assert_eq!(instruction(5, Split::Asked, 7), instruction(5, Split::Asked, 7));
        let held: Vec<String> = (0..60).map(|index| instruction(5, Split::AskedHeldout, index).prompt).collect();
        assert!(all(60).iter().all(|one| !held.contains(&one.prompt)));
        assert_ne!(instruction(6, Split::Asked, 7), instruction(5, Split::Asked, 7));
    }
}
