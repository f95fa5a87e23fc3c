//! Questions as tokens.

use difflow_inference::{Document, GapLength, InferenceError, Piece, Question, Session, Template};
use difflow_text::Words;

use crate::error::EvalError;
use crate::items::{Body, Candidate, Item};
use crate::task::{Anchor, Encoding, Task, Told};

/// A question ready to be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    pub item: Item,
    pub asked: Asked,
    /// Whether what is given was cut at its beginning to fit the model.
    pub cut: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// Candidates, or the windows of a text.
    Measure(Question),
    /// A text to be written, for each way in which the model is told the length.
    Write { texts: Vec<(Told, Template)>, answer: String, answer_tokens: usize },
    /// The text is longer than the task allows.
    Skip,
}

/// What texts are encoded for.
pub struct Encoder<'a> {
    task: &'a Task,
    session: &'a Session,
    /// Most tokens of a text.
    longest: usize,
    /// What the tokenizer's file puts before a text.
    own_start: Vec<u32>,
}

impl<'a> Encoder<'a> {
    /// For a task and a model. Errors if the tokenizer cannot read a text.
    pub fn new(task: &'a Task, session: &'a Session) -> Result<Self, EvalError> {
        let own_start = session.words().own_start().map_err(InferenceError::from)?;
        Ok(Self { task, session, longest: session.config().max_positions, own_start })
    }

    /// Returns a question as tokens. Errors if a candidate or an answer has no tokens or does not fit the model.
    pub fn question(&self, item: Item) -> Result<Encoded, EvalError> {
        match &item.body {
            Body::Choice { candidates, .. } => {
                let mut documents = Vec::with_capacity(candidates.len());
                let mut cut = false;
                for candidate in candidates {
                    let document = self.candidate(item.id, candidate)?;
                    cut |= document.tokens.len() > self.longest;
                    documents.push(self.fitted(item.id, document)?);
                }
                Ok(Encoded { asked: Asked::Measure(Question { id: item.id, candidates: documents }), item, cut })
            }
            Body::Perplexity { text } => {
                let candidates = self.windows(&self.words().encode(text).map_err(InferenceError::from)?);
                if candidates.is_empty() {
                    return Err(self.wrong(item.id, "a text without tokens", "wanted: some text"));
                }
                Ok(Encoded { asked: Asked::Measure(Question { id: item.id, candidates }), item, cut: false })
            }
            Body::Write { .. } => self.text(item),
        }
    }

    fn words(&self) -> &Words {
        self.session.words()
    }

    fn wrong(&self, question: u64, found: impl ToString, allowed: impl ToString) -> EvalError {
        EvalError::question(&self.task.name, question, found, allowed)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        Ok(self.words().encode(text).map_err(InferenceError::from)?)
    }

    /// What stands before a text.
    fn start(&self) -> Vec<u32> {
        match self.task.anchor {
            Anchor::Bos => vec![self.words().bos],
            Anchor::Tokenizer => self.own_start.clone(),
            Anchor::None => Vec::new(),
        }
    }

    /// A piece that is encoded apart from the text before it.
    fn apart(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        let own = if self.task.anchor == Anchor::Tokenizer { &self.own_start[..] } else { &[] };
        Ok([own, &self.encode(text)?].concat())
    }

    /// What is given and what follows it, as one text: (both, number of tokens given). Spaces at the end of the first belong to the second.
    fn joint(&self, given: &str, follows: &str) -> Result<(Vec<u32>, usize), EvalError> {
        let trimmed = given.trim_end();
        let (given, spaces) = given.split_at(trimmed.len());
        let head = self.encode(given)?;
        let whole = self.encode(&format!("{given}{spaces}{follows}"))?;
        let count = head.len().min(whole.len());
        Ok((whole, count))
    }

    fn candidate(&self, id: u64, candidate: &Candidate) -> Result<Document, EvalError> {
        let (mut tokens, given) = match self.task.encoding {
            Encoding::Joint => self.joint(&candidate.context, &candidate.continuation.concat())?,
            Encoding::Apart => {
                let mut tokens = self.encode(&candidate.context)?;
                let given = tokens.len();
                for piece in &candidate.continuation {
                    tokens.extend(self.apart(piece)?);
                }
                (tokens, given)
            }
        };
        let start = self.start();
        let given = start.len() + given;
        tokens.splice(0..0, start);
        if given == 0 {
            let allowed = "wanted: some context, or `anchor: bos`: the first token is not predicted";
            return Err(self.wrong(id, "nothing before a candidate", allowed));
        }
        let document = Document { tokens, given };
        if document.measured() == 0 {
            let found = format!("an empty candidate: `{}` has no tokens of its own", candidate.label);
            return Err(self.wrong(id, found, "wanted: some text for every candidate"));
        }
        Ok(document)
    }

    /// A document with its context cut at the beginning where it does not fit. Errors if its candidate alone does not fit.
    fn fitted(&self, id: u64, document: Document) -> Result<Document, EvalError> {
        let measured = document.measured();
        let keep = usize::from(self.task.anchor == Anchor::Bos).max(1);
        if measured + keep > self.longest {
            let found = format!("a candidate of {measured} tokens");
            return Err(self.wrong(id, found, format!("the model reads {} at most", self.longest)));
        }
        let over = document.tokens.len().saturating_sub(self.longest);
        if over == 0 {
            return Ok(document);
        }
        let mut tokens = document.tokens;
        let anchor = usize::from(self.task.anchor == Anchor::Bos);
        tokens.drain(anchor..anchor + over);
        Ok(Document { tokens, given: document.given - over })
    }

    /// A text cut into windows: each token is measured once, behind what fits before it. All windows but the first are full.
    fn windows(&self, text: &[u32]) -> Vec<Document> {
        let whole = [&[self.words().bos], text].concat();
        let (mut windows, mut done) = (Vec::new(), 1);
        while done < whole.len() {
            // After the first, a window begins with the token before those that it measures, and the last one with more than that.
            let end = (done - 1 + self.longest).min(whole.len());
            let start = end.saturating_sub(self.longest).min(done - 1);
            windows.push(Document { tokens: whole[start..end].to_vec(), given: done - start });
            done = end;
        }
        windows
    }

    fn text(&self, item: Item) -> Result<Encoded, EvalError> {
        let Body::Write { left, right, answer, accepted } = &item.body else {
            return Err(self.wrong(item.id, "no text to write", "see the task"));
        };
        let right_tokens = match (right, self.task.encoding) {
            (None, _) => Vec::new(),
            (Some(right), Encoding::Apart) => self.encode(right)?,
            (Some(right), Encoding::Joint) => {
                let right = self.words().encode_inner(right).map_err(InferenceError::from)?;
                [right, vec![self.words().eos]].concat()
            }
        };
        let length = |answer: &String| -> Result<usize, EvalError> {
            Ok(match self.task.encoding {
                Encoding::Apart => self.encode(answer)?.len(),
                Encoding::Joint if right.is_some() => {
                    self.words().encode_inner(answer).map_err(InferenceError::from)?.len()
                }
                Encoding::Joint => {
                    let (whole, given) = self.joint(left, answer)?;
                    whole.len() - given
                }
            })
        };
        let mut candidates = Vec::new();
        for one in answer.iter().chain(accepted.iter().filter(|_| answer.is_none())) {
            candidates.push((length(one)?, one.clone()));
        }
        // The first of the longest.
        let longest = candidates.iter().map(|(length, _)| *length).max().unwrap_or(0);
        let answer = candidates.into_iter().find(|(length, _)| *length == longest).map(|(_, answer)| answer);
        let Some(answer) = answer.filter(|_| longest > 0) else {
            return Err(self.wrong(item.id, "an answer without tokens", "wanted: some text"));
        };
        let mut left_tokens = self.start();
        let text =
            if self.task.encoding == Encoding::Joint && right.is_none() { left.trim_end_matches(' ') } else { left };
        left_tokens.extend(self.encode(text)?);
        if left_tokens.is_empty() {
            return Err(self.wrong(item.id, "nothing before the text", "wanted: some context, or `anchor: bos`"));
        }
        // Other models see the left side only, as the paper's baselines.
        let both_sides = right.is_some() && self.session.fills_gaps();
        let right_tokens = if both_sides { right_tokens } else { Vec::new() };
        let whole = left_tokens.len() + longest + right_tokens.len();
        if self.task.skip_longer.is_some_and(|most| whole > most) {
            return Ok(Encoded { item, asked: Asked::Skip, cut: false });
        }
        let bounds = self.task.lengths();
        let mut texts = Vec::new();
        let mut cut = false;
        for &told in &self.task.told {
            let length = match told {
                Told::Oracle => GapLength { least: longest, most: longest },
                Told::Unknown => GapLength { least: bounds.low, most: bounds.high },
            };
            if length.most + right_tokens.len() + 1 > self.longest {
                let found = format!("{} tokens to be written before {}", length.most, right_tokens.len());
                return Err(self.wrong(item.id, found, format!("the model reads {} at most", self.longest)));
            }
            let mut left = left_tokens.clone();
            let over = (left.len() + length.most + right_tokens.len()).saturating_sub(self.longest);
            let anchor = usize::from(self.task.anchor == Anchor::Bos);
            left.drain(anchor..anchor + over);
            cut |= over > 0;
            let mut pieces = vec![Piece::Tokens(left), Piece::Gap(length)];
            if !right_tokens.is_empty() {
                pieces.push(Piece::Tokens(right_tokens.clone()));
            }
            texts.push((told, Template { pieces, key: item.id }));
        }
        Ok(Encoded { asked: Asked::Write { texts, answer, answer_tokens: longest }, item, cut })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_inference::tiny;

    use super::*;
    use crate::templates::Row;

    fn task(yaml: &str) -> Task {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.yml");
        std::fs::write(&path, format!("about: a\nsource: {{path: a.jsonl}}\n{yaml}")).unwrap();
        Task::read(&path).unwrap()
    }

    fn choice(extra: &str) -> Task {
        task(&format!("kind: choice\ncontext: ''\nchoices: c\ngold: g\nmetrics: [acc]\n{extra}"))
    }

    fn asked(context: &str, continuation: &[&str]) -> Item {
        let candidate = Candidate {
            label: "x".into(),
            context: context.into(),
            continuation: continuation.iter().map(|&piece| piece.into()).collect(),
        };
        Item { id: 3, row: Row::new(), body: Body::Choice { candidates: vec![candidate], gold: 0 } }
    }

    fn document(task: &Task, item: Item) -> Result<Document, String> {
        let session = tiny::session(true, 0.3);
        let encoder = Encoder::new(task, &session).unwrap();
        match encoder.question(item).map_err(|e| e.to_string())?.asked {
            Asked::Measure(question) => Ok(question.candidates[0].clone()),
            other => panic!("{other:?}"),
        }
    }

    /// One token a letter: a is 3, the space 29.
    #[test]
    fn spaces_before_a_candidate_are_its_own_and_the_anchor_comes_first() {
        let found = document(&choice(""), asked("a ", &["b"])).unwrap();
        assert_eq!(found, Document { tokens: vec![1, 3, 29, 4], given: 2 });
        let found = document(&choice("encoding: apart\nanchor: none\n"), asked("a ", &["b", "c"])).unwrap();
        assert_eq!(found, Document { tokens: vec![3, 29, 4, 5], given: 2 });
        let error = document(&choice("encoding: apart\nanchor: none\n"), asked("", &["b"])).unwrap_err();
        assert!(error.contains("anchor: bos") && error.contains("question 3"), "{error}");
    }

    /// 64 positions: what is given is cut at its beginning, behind the anchor, and never what is measured.
    #[test]
    fn what_does_not_fit_is_cut_before_the_candidate_or_refused() {
        let found = document(&choice(""), asked(&"a".repeat(80), &["bbb"])).unwrap();
        assert_eq!((found.tokens.len(), found.measured(), found.tokens[0]), (64, 3, 1));
        let error = document(&choice(""), asked("a", &[&"b".repeat(64)])).unwrap_err();
        assert!(error.contains("a candidate of 64 tokens") && error.contains("64 at most"), "{error}");
    }

    #[test]
    fn every_token_of_a_long_text_is_measured_once() {
        let session = tiny::session(true, 0.3);
        let task = task("kind: perplexity\ntext: t\nmetrics: [perplexity]\n");
        let encoder = Encoder::new(&task, &session).unwrap();
        for length in [1, 62, 63, 64, 65, 126, 127, 300] {
            let text: Vec<u32> = (0..length).map(|i| 3 + i % 30).collect();
            let windows = encoder.windows(&text);
            let measured: Vec<u32> = windows.iter().flat_map(|one| one.tokens[one.given..].to_vec()).collect();
            assert_eq!(measured, text);
            assert!(windows.iter().all(|one| one.tokens.len() <= 64 && one.given >= 1));
            assert!(windows[1..].iter().all(|one| one.tokens.len() == 64), "{length}");
        }
    }

    #[test]
    fn a_gap_is_as_long_as_its_answer_or_within_bounds() {
        let session = tiny::session(true, 0.3);
        let gap = task("kind: gap\ncontext: l\nright: r\naccepted: a\nlength: 1..4\nmetrics: [exact_match]\n");
        let encoder = Encoder::new(&gap, &session).unwrap();
        let body = Body::Write {
            left: "ab".into(),
            right: Some("d".into()),
            answer: None,
            accepted: vec!["c".into(), " ccc".into(), "dddd".into()],
        };
        let found = encoder.question(Item { id: 0, row: Row::new(), body }).unwrap();
        let Asked::Write { texts, answer, answer_tokens } = found.asked else { panic!("{found:?}") };
        assert_eq!((answer.as_str(), answer_tokens), (" ccc", 4));
        let gaps: Vec<&Piece> = texts.iter().map(|(_, template)| &template.pieces[1]).collect();
        let length = |least, most| Piece::Gap(GapLength { least, most });
        assert_eq!(gaps, [&length(4, 4), &length(1, 4)]);
        assert_eq!(texts[0].1.pieces[2], Piece::Tokens(vec![6, 2]));
        let base = tiny::session(false, 0.3);
        let body =
            Body::Write { left: "ab".into(), right: Some("d".into()), answer: Some("c".into()), accepted: vec![] };
        let found = Encoder::new(&gap, &base).unwrap().question(Item { id: 0, row: Row::new(), body }).unwrap();
        let Asked::Write { texts, .. } = found.asked else { panic!("{found:?}") };
        assert_eq!(texts[0].1.pieces.len(), 2, "a model that reads from left to right has no right side");
    }
}
