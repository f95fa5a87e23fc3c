//! What a model can be asked, and its answers.

use difflow_model::Template;

use crate::decoding::{Decoder, Decoding};
use crate::error::InferenceError;
use crate::gaps::Gap;
use crate::likelihood::{Batching, Document, Nats, Noise};
use crate::progress::GoOn;
use crate::session::Session;
use crate::writing::Written;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// How probable is this document?
    Likelihood(Document),
    /// Which of these documents is the most probable? They have the same beginning, which is given.
    Choice(Vec<Document>),
    /// What belongs in this gap?
    Gap(Gap),
    /// Generate a text: from nothing, after a prompt, or in gaps.
    Generate(Template),
}

/// The answer to a [`Task`] of the same kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Exact, or the bound.
    Likelihood(Nats),
    Choice(Choice),
    Gap(Filled),
    Generate(Written),
}

/// A choice by likelihood.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Number of the most probable candidate; the first if several are.
    pub best: usize,
    /// Nats of each candidate.
    pub candidates: Vec<Nats>,
}

/// A filled gap.
#[derive(Debug, Clone, PartialEq)]
pub struct Filled {
    /// The tokens in it.
    pub filling: Vec<u32>,
    /// Whether they are the answer; `None` if no answer is known.
    pub exact: Option<bool>,
    /// Number of forwards that it took.
    pub nfe: u32,
}

/// How a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// As it was trained to.
    #[default]
    Trained,
    /// From left to right.
    LeftToRight,
}

/// How questions are asked.
#[derive(Debug, Clone)]
pub struct Asking {
    /// How the model reads.
    pub reading: Reading,
    /// How it writes. From left to right the decoder is always [`Decoder::Ar`].
    pub decoding: Decoding,
    /// How documents are noised for the diffusion bound.
    pub noise: Noise,
    /// Which documents share a forward.
    pub batching: Batching,
    /// Number of texts that are generated together.
    pub rows: usize,
}

impl Session {
    /// Returns the answers to questions, in their order; questions of one kind are batched together. Calls `go_on`
    /// before every batch. Errors if a question does not fit the model, or with the error of `go_on`.
    pub fn answer<E: From<InferenceError>>(
        &self,
        tasks: &[Task],
        asking: &Asking,
        go_on: &mut GoOn<E>,
    ) -> Result<Vec<Answer>, E> {
        let left_to_right = asking.reading == Reading::LeftToRight || self.left_to_right();
        let documents: Vec<Document> = tasks.iter().flat_map(Task::documents).cloned().collect();
        let mut nats = match (documents.is_empty(), left_to_right) {
            (true, _) => Vec::new(),
            (_, true) => self.ar_loss(&documents, asking.batching, go_on)?,
            (_, false) => self.nelbo(&documents, asking.noise, asking.batching, go_on)?,
        }
        .into_iter();
        // Keys are numbers within a kind: the same question has the same random numbers whatever else is asked.
        let gaps = (0..).zip(tasks.iter().filter_map(Task::gap));
        let gaps = gaps.map(|(key, gap)| if left_to_right { gap.left_only(key) } else { gap.both_sides(key) });
        let texts: Vec<Template> = gaps.chain(tasks.iter().filter_map(Task::text).cloned()).collect();
        let decoder = if left_to_right { Decoder::Ar } else { asking.decoding.decoder };
        let decoding = Decoding { decoder, ..asking.decoding.clone() };
        let mut filled = self.write(&texts, &decoding, asking.rows, &mut |_, _| {}, go_on)?;
        let mut written = filled.split_off(tasks.iter().filter_map(Task::gap).count()).into_iter();
        let mut filled = filled.into_iter();
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            answers.push(match task {
                Task::Likelihood(_) => Answer::Likelihood(nats.next().unwrap_or_default()),
                Task::Choice(documents) => Answer::Choice(Choice::of(nats.by_ref().take(documents.len()).collect())),
                Task::Gap(gap) => Answer::Gap(self.filled(gap, &filled.next().unwrap_or_default())?),
                Task::Generate(_) => Answer::Generate(written.next().unwrap_or_default()),
            });
        }
        Ok(answers)
    }

    fn filled(&self, gap: &Gap, written: &Written) -> Result<Filled, InferenceError> {
        let filling = written.filling();
        let exact = gap.answer.as_ref().map(|_| gap.matches(&filling, self.words())).transpose()?;
        Ok(Filled { filling, exact, nfe: written.nfe })
    }
}

impl Task {
    fn documents(&self) -> &[Document] {
        match self {
            Self::Likelihood(document) => std::slice::from_ref(document),
            Self::Choice(documents) => documents,
            Self::Gap(_) | Self::Generate(_) => &[],
        }
    }

    fn gap(&self) -> Option<&Gap> {
        if let Self::Gap(gap) = self { Some(gap) } else { None }
    }

    fn text(&self) -> Option<&Template> {
        if let Self::Generate(text) = self { Some(text) } else { None }
    }
}

impl Choice {
    fn of(candidates: Vec<Nats>) -> Self {
        let nats = |at: &usize| candidates[*at].nats;
        let best = (0..candidates.len()).min_by(|a, b| nats(a).total_cmp(&nats(b))).unwrap_or_default();
        Self { best, candidates }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_model::{GapLength, Piece};

    use super::*;
    use crate::tiny;

    fn asking() -> Asking {
        Asking {
            reading: Reading::Trained,
            decoding: Decoding::surest_first(),
            noise: Noise { seed: 0, draws: 4 },
            batching: Batching::Rows(2),
            rows: 2,
        }
    }

    fn answers(session: &Session, tasks: &[Task]) -> Vec<Answer> {
        session.answer(tasks, &asking(), &mut |_| Ok::<(), InferenceError>(())).unwrap()
    }

    fn gap(answer: &[u32]) -> Gap {
        let length = GapLength { least: answer.len(), most: answer.len() };
        Gap { left: vec![1, 5, 6], answer: Some(answer.to_vec()), length, right: vec![9, 2] }
    }

    fn exact(session: &Session, gaps: &[Gap]) -> Vec<Option<bool>> {
        let tasks: Vec<Task> = gaps.iter().cloned().map(Task::Gap).collect();
        let filled = answers(session, &tasks).into_iter().map(|answer| match answer {
            Answer::Gap(filled) => filled.exact,
            other => panic!("{other:?}"),
        });
        filled.collect()
    }

    /// Right are the model's own answers, and wrong is one token of them changed: with both sides in view, and from the left alone.
    #[test]
    fn the_whole_answer_has_to_be_right() {
        for session in [tiny::session(true, 0.3), tiny::session(false, 0.3)] {
            let mut gaps = vec![gap(&[7, 8]), Gap { left: vec![1, 9], ..gap(&[7, 8, 9]) }];
            for gap in &mut gaps {
                let found = answers(&session, &[Task::Gap(gap.clone())]).remove(0);
                let Answer::Gap(Filled { filling, .. }) = found else { panic!("{found:?}") };
                gap.answer = Some(filling);
            }
            assert_eq!(exact(&session, &gaps), [Some(true); 2]);
            let last = gaps[1].answer.as_mut().unwrap().last_mut().unwrap();
            *last = if *last == 20 { 21 } else { 20 };
            assert_eq!(exact(&session, &gaps), [Some(true), Some(false)]);
        }
    }

    #[test]
    fn the_most_probable_candidate_is_chosen() {
        let base = tiny::session(false, 0.3);
        let candidates: Vec<Document> = (3..30).map(|token| Document { tokens: vec![1, 5, token], given: 2 }).collect();
        let chosen = answers(&base, &[Task::Choice(candidates.clone())]).remove(0);
        let Answer::Choice(choice) = chosen else { panic!("{chosen:?}") };
        assert!(choice.candidates.iter().all(|one| one.nats >= choice.candidates[choice.best].nats && one.tokens == 1));
        let greedy = Task::Generate(Template {
            pieces: vec![Piece::Tokens(vec![1, 5]), Piece::Gap(GapLength { least: 1, most: 1 })],
            key: 0,
        });
        let written = answers(&base, &[greedy]).remove(0);
        let Answer::Generate(written) = written else { panic!("{written:?}") };
        if (3..30).contains(&written.tokens[2]) {
            assert_eq!(written.tokens[2], candidates[choice.best].tokens[2]);
        }
    }

    /// Questions of all kinds at once get the answers that each gets alone.
    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let session = tiny::session(true, 0.3);
        let text = Template { pieces: gap(&[7]).both_sides(3).pieces, key: 3 };
        let tasks = [
            Task::Generate(text),
            Task::Gap(gap(&[7, 8])),
            Task::Likelihood(Document::new(vec![1, 7, 8, 9, 2])),
            Task::Choice(vec![Document { tokens: vec![1, 7, 8], given: 2 }; 2]),
        ];
        let found = answers(&session, &tasks);
        assert!(matches!(
            found[..],
            [Answer::Generate(_), Answer::Gap(_), Answer::Likelihood(_), Answer::Choice(Choice { best: 0, .. })]
        ));
        let Answer::Generate(written) = &found[0] else { panic!("{found:?}") };
        assert_eq!(written.filled, [false, false, false, true, false, false]);
    }
}
