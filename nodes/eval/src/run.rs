//! Puts the questions of a task to a model, some at a time, and keeps the answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use difflow_inference::{
    Batching, Decoder, Decoding, GoOn, InferenceError, Piece, Progress, Question, Scorer, Scoring, Session, Template,
    Value, Written,
};
use difflow_schema::run::{bytes_sha256, write_atomically};
use serde_json::{Value as Json, json};

use crate::answers::{self, Answer};
use crate::code::Sandbox;
use crate::encode::{Asked, Encoded, Encoder};
use crate::error::EvalError;
use crate::items::{self, Body};
use crate::matching;
use crate::rouge::Rouge;
use crate::summary::{Figure, summary};
use crate::task::{Kind, Metric, Steps, Task, Told};
use crate::templates::Templates;

/// Questions that are answered and written down together. What an answer is does not depend on how many more there are.
const TOGETHER: usize = 64;
/// Draws after which a sequential test looks for the first time.
const FIRST_LOOK: u32 = 8;
/// Draws where neither the command nor the task says how many.
const DRAWS: u32 = 128;

/// How a task is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Key of all random numbers.
    pub seed: u64,
    /// Questions of a task, at most.
    pub limit: Option<usize>,
    /// Draws in place of those of the task.
    pub draws: Option<u32>,
    /// Scoring in place of that of the task.
    pub scoring: Option<Scoring>,
    /// More draws only until the best candidate is this many standard errors before every other.
    pub sequential: Option<f64>,
    /// Tokens of a forward.
    pub batch_tokens: usize,
    /// Texts that are written together.
    pub rows: usize,
    /// Whether programs that the model wrote may be run.
    pub code: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            limit: None,
            draws: None,
            scoring: None,
            sequential: None,
            batch_tokens: 16_384,
            rows: 16,
            code: false,
        }
    }
}

/// A task with its questions as a model's tokens.
pub struct Evaluation<'a> {
    pub task: &'a Task,
    session: &'a Session,
    templates: Templates,
    pub questions: Vec<Encoded>,
    pub scorer: Scorer,
    options: Options,
    decoding: Decoding,
    sandbox: Option<Sandbox>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Done {
    /// Questions, with what is done of those that are being answered.
    pub questions: f64,
    /// Of how many.
    pub of: usize,
    /// Questions that an earlier run had answered.
    pub before: usize,
}

/// Told of the progress before every batch; its error ends the evaluation.
pub type Watch<'a> = dyn FnMut(Done) -> Result<(), EvalError> + 'a;

/// What came out.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub answers: Vec<Answer>,
    pub figures: BTreeMap<String, Figure>,
    /// Where the answers are kept.
    pub folder: Option<PathBuf>,
    /// Seconds of this run, without what earlier ones did.
    pub seconds: f64,
}

impl Outcome {
    /// The first share that the task counts, told the length where it is a text; `None` for perplexity.
    pub fn share(&self, task: &Task) -> Option<f64> {
        let first = task.metrics.first()?;
        let name = match first {
            Metric::Acc => "acc",
            Metric::AccNorm => "acc_norm",
            Metric::ExactMatch => "exact_match",
            Metric::Contains => "contains",
            Metric::Rouge => "rouge1",
            Metric::FinalAnswer => "final_answer",
            Metric::PassAt1 => "pass_at_1",
            Metric::Perplexity => return None,
        };
        let filters = ["none", "oracle", "unknown"];
        filters.iter().find_map(|filter| self.figures.get(&format!("{name},{filter}"))).map(|figure| figure.value)
    }
}

impl<'a> Evaluation<'a> {
    /// Reads and encodes all questions. Errors, before anything is computed, if a question, the scoring or the decoding means nothing.
    pub fn prepare(task: &'a Task, session: &'a Session, options: &Options) -> Result<Self, EvalError> {
        // A task that says how means models that see both sides.
        let own = task.scoring.filter(|_| !session.left_to_right());
        let scoring = options.scoring.or(own).unwrap_or(session.scoring());
        let measures = matches!(task.kind, Kind::Choice | Kind::Perplexity);
        if measures {
            session.check_scoring(scoring).map_err(|e| EvalError::task(&task.name, "scoring", e, "see --scoring"))?;
            if task.kind == Kind::Perplexity && !scoring.is_sum() {
                let allowed = "allowed for perplexity: exact, llada-mc";
                return Err(EvalError::task(&task.name, "scoring", format!("{scoring:?}"), allowed));
            }
        }
        let draws = if scoring == Scoring::Exact { 1 } else { options.draws.or(task.draws).unwrap_or(DRAWS) };
        let scorer = Scorer { scoring, draws, seed: options.seed, task: task.name.clone() };
        let decoding = decoding(task, session, options.seed)?;
        let code = task.metrics.contains(&Metric::PassAt1);
        if code && !options.code {
            let allowed =
                "--allow-code-execution runs what the model wrote, in a process without network and with limits";
            return Err(EvalError::task(&task.name, "metrics", "pass_at_1", allowed));
        }
        let sandbox = if code {
            Some(Sandbox::open().map_err(|e| EvalError::task(&task.name, "metrics", e, "see docs/EVALUATION.md"))?)
        } else {
            None
        };
        let templates = Templates::new(task)?;
        let encoder = Encoder::new(task, session)?;
        let items = items::read(task, &templates, options.limit, options.seed)?;
        let questions = items.into_iter().map(|item| encoder.question(item)).collect::<Result<_, _>>()?;
        let options = options.clone();
        Ok(Self { task, session, templates, questions, scorer, options, decoding, sandbox })
    }

    /// Whether gaps are filled with both sides in view.
    pub fn reads_both_sides(&self) -> bool {
        self.session.fills_gaps()
    }

    /// What decides the answers, besides how many questions there are.
    pub fn settings(&self, checkpoint: &str) -> Json {
        json!({
            "format": 2,
            "checkpoint": checkpoint,
            "task": self.task.name,
            "file": self.task.identity(),
            "scoring": self.scorer.scoring,
            "draws": self.scorer.draws,
            "seed": self.options.seed,
            "sequential": self.options.sequential,
            "decoding": self.decoding,
        })
    }

    /// Answers all questions. With a folder, answers are kept there, in a folder of their own for these settings, as soon as some are
    /// ready, and those that are there already are not computed again. `checkpoint` identifies the weights.
    pub fn run(&self, folder: Option<&Path>, checkpoint: &str, watch: &mut Watch) -> Result<Outcome, EvalError> {
        let start = Instant::now();
        let settings = self.settings(checkpoint);
        let text = serde_json::to_vec_pretty(&settings).unwrap_or_default();
        let folder = folder.map(|folder| folder.join(format!("{}-{}", self.task.name, &bytes_sha256(&text)[..12])));
        if let Some(folder) = &folder {
            let path = folder.join("settings.json");
            write_atomically(&path, &text).map_err(|e| EvalError::file(&path)(&e))?;
        }
        let (mut all, mut before) = (Vec::with_capacity(self.questions.len()), 0);
        for (number, some) in self.questions.chunks(TOGETHER).enumerate() {
            let path = folder.as_ref().map(|folder| folder.join(format!("part-{number:05}.parquet")));
            let kept = path.as_ref().filter(|path| path.is_file()).map(|path| answers::read(path)).transpose()?;
            // Fewer were asked then, or others.
            let same = |kept: &Vec<Answer>| {
                kept.len() >= some.len() && kept.iter().zip(some).all(|(kept, one)| kept.asks_as(&plain(one)))
            };
            let kept = kept.filter(same).map(|mut kept| {
                kept.truncate(some.len());
                kept
            });
            if let Some(mut kept) = kept {
                before += kept.len();
                all.append(&mut kept);
                continue;
            }
            let mut answers = self.answer(some, &mut |share| {
                let questions = all.len() as f64 + share * some.len() as f64;
                watch(Done { questions, of: self.questions.len(), before })
            })?;
            if let Some(path) = path {
                answers::write(&path, &answers)?;
            }
            all.append(&mut answers);
        }
        watch(Done { questions: all.len() as f64, of: self.questions.len(), before })?;
        let figures = summary(&all);
        Ok(Outcome { answers: all, figures, folder, seconds: start.elapsed().as_secs_f64() })
    }

    fn answer(
        &self,
        some: &[Encoded],
        watch: &mut dyn FnMut(f64) -> Result<(), EvalError>,
    ) -> Result<Vec<Answer>, EvalError> {
        let mut answers: Vec<Answer> = some.iter().map(plain).collect();
        let measured: Vec<(usize, &Question)> = some
            .iter()
            .enumerate()
            .filter_map(|(at, one)| if let Asked::Measure(question) = &one.asked { Some((at, question)) } else { None })
            .collect();
        if !measured.is_empty() {
            let questions: Vec<Question> = measured.iter().map(|(_, question)| (*question).clone()).collect();
            let found = self.measure(&questions, watch)?;
            for ((at, _), (values, draws)) in measured.iter().zip(found) {
                self.count(&mut answers[*at], &some[*at].item.body, &values, draws);
            }
        }
        for &told in &self.task.told {
            self.write(some, told, &mut answers, watch)?;
        }
        Ok(answers)
    }

    /// The values of each candidate of each question, and the draws that they are of.
    fn measure(
        &self,
        questions: &[Question],
        watch: &mut dyn FnMut(f64) -> Result<(), EvalError>,
    ) -> Result<Vec<(Vec<Value>, u32)>, EvalError> {
        let most = self.scorer.draws;
        let sequential = self.options.sequential.filter(|_| self.scorer.scoring == Scoring::LladaMc);
        let mut draws: Vec<Vec<Vec<f64>>> =
            questions.iter().map(|question| vec![Vec::new(); question.candidates.len()]).collect();
        let mut open: Vec<usize> = (0..questions.len()).collect();
        let (mut done, mut next) = (0, if sequential.is_some() { FIRST_LOOK.min(most) } else { most });
        while !open.is_empty() && done < most {
            let some: Vec<Question> = open.iter().map(|&at| questions[at].clone()).collect();
            let batching = Batching::Tokens(self.options.batch_tokens);
            let (from, to) = (f64::from(done) / f64::from(most), f64::from(next) / f64::from(most));
            let mut go_on =
                |progress: Progress| watch(from + (to - from) * progress.done as f64 / progress.of.max(1) as f64);
            let go_on: &mut GoOn<EvalError> = &mut go_on;
            let found = self.session.candidate_draws(&some, &self.scorer, done..next, batching, go_on)?;
            for (&at, found) in open.iter().zip(found) {
                for (all, mut new) in draws[at].iter_mut().zip(found) {
                    all.append(&mut new);
                }
            }
            if let Some(errors) = sequential {
                open.retain(|&at| !self.decided(&questions[at], &draws[at], errors));
            }
            (done, next) = (next, (next * 2).min(most));
        }
        let value = |(question, draws): (&Question, &Vec<Vec<f64>>)| {
            let own = question.candidates.iter().zip(draws);
            let values =
                own.map(|(document, draws)| self.scorer.value(question.id, draws, document.measured())).collect();
            (values, draws.first().map_or(0, Vec::len) as u32)
        };
        Ok(questions.iter().zip(&draws).map(value).collect())
    }

    /// Whether the best candidate is so many standard errors of the difference before every other.
    fn decided(&self, question: &Question, draws: &[Vec<f64>], errors: f64) -> bool {
        let mean = |draws: &[f64]| draws.iter().sum::<f64>() / draws.len() as f64;
        let means: Vec<f64> = draws.iter().map(|draws| mean(draws)).collect();
        let Some(best) = lowest(&means) else { return true };
        (0..draws.len()).filter(|&other| other != best).all(|other| {
            let gaps: Vec<f64> = draws[other].iter().zip(&draws[best]).map(|(a, b)| a - b).collect();
            self.scorer.error(question.id, &gaps).is_some_and(|error| mean(&gaps) > errors * error.standard)
        })
    }

    fn count(&self, answer: &mut Answer, body: &Body, values: &[Value], draws: u32) {
        answer.values = values.iter().map(|value| value.value).collect();
        answer.errors = values.iter().map(|value| value.error.map_or(f64::NAN, |error| error.standard)).collect();
        answer.half_widths =
            values.iter().map(|value| value.error.map_or(f64::NAN, |error| error.half_width)).collect();
        answer.tokens = values.iter().map(|value| value.tokens as u64).collect();
        answer.draws = draws.into();
        match body {
            Body::Choice { candidates, gold } => {
                let chosen = lowest(&answer.values).unwrap_or_default();
                answer.chosen = Some(chosen as u64);
                let share = |right: bool| f64::from(u8::from(right));
                if self.task.metrics.contains(&Metric::Acc) {
                    answer.metrics.insert("acc,none".into(), share(chosen == *gold));
                }
                // A value a token is normalised already.
                if self.task.metrics.contains(&Metric::AccNorm) && self.scorer.scoring.is_sum() {
                    let own = answer.values.iter().zip(candidates);
                    let normed: Vec<f64> =
                        own.map(|(value, one)| value / one.label.chars().count().max(1) as f64).collect();
                    answer.metrics.insert("acc_norm,none".into(), share(lowest(&normed) == Some(*gold)));
                }
            }
            Body::Perplexity { text } => {
                let words = text.split(char::is_whitespace).filter(|word| !word.is_empty()).count();
                let tokens: u64 = answer.tokens.iter().sum();
                for (name, value) in [
                    ("nats", answer.values.iter().sum()),
                    ("tokens", tokens as f64),
                    ("bytes", text.len() as f64),
                    ("words", words as f64),
                ] {
                    answer.metrics.insert(format!("{name},none"), value);
                }
            }
            Body::Write { .. } => {}
        }
    }

    /// Has texts written whose length is told in this way, and counts them.
    fn write(
        &self,
        some: &[Encoded],
        told: Told,
        answers: &mut [Answer],
        watch: &mut dyn FnMut(f64) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        // Texts that take as many steps as they are long cannot be written together with longer ones.
        let mut groups: BTreeMap<usize, Vec<(usize, Template)>> = BTreeMap::new();
        for (at, one) in some.iter().enumerate() {
            let Asked::Write { texts, answer_tokens, .. } = &one.asked else { continue };
            let Some((_, template)) = texts.iter().find(|(own, _)| *own == told) else { continue };
            let by_length = matches!(self.task.steps, Some(Steps::Named(_)));
            groups.entry(if by_length { *answer_tokens } else { 0 }).or_default().push((at, template.clone()));
        }
        let all: usize = groups.values().map(Vec::len).sum();
        let turns = self.task.told.len().max(1) as f64;
        let turn = self.task.told.iter().position(|own| *own == told).unwrap_or_default() as f64;
        let mut done = 0;
        for (length, group) in groups {
            let steps = match self.task.steps {
                Some(Steps::Number(steps)) => steps,
                Some(Steps::Named(_)) => length as u32,
                None => self.decoding.steps,
            };
            let decoding = Decoding { steps, ..self.decoding.clone() };
            let templates: Vec<Template> = group.iter().map(|(_, template)| template.clone()).collect();
            let mut go_on =
                |progress: Progress| watch((turn + (done + progress.done) as f64 / all.max(1) as f64) / turns);
            let go_on: &mut GoOn<EvalError> = &mut go_on;
            let written = self.session.write(&templates, &decoding, self.options.rows, &mut |_, _| {}, go_on)?;
            for ((at, template), written) in group.iter().zip(&written) {
                let text = self.text(template, written)?;
                answers[*at].forwards += u64::from(written.nfe);
                self.judge(&some[*at], told, &text, &mut answers[*at])?;
                answers[*at].texts.insert(name(told).to_owned(), text);
            }
            done += group.len();
        }
        Ok(())
    }

    /// What was written, up to its end.
    fn text(&self, template: &Template, written: &Written) -> Result<String, EvalError> {
        let stops = self.session.stops();
        let mut tokens = written.filling();
        let open = matches!(template.pieces.last(), Some(Piece::Gap(_)));
        if let Some(end) = tokens.iter().position(|token| stops.contains(token)).filter(|_| open) {
            tokens.truncate(end);
        }
        let mut text = self.session.words().decode_inner(&tokens).map_err(InferenceError::from)?;
        if let Some(end) = self.task.until.iter().filter_map(|until| text.find(until.as_str())).min() {
            text.truncate(end);
        }
        Ok(text)
    }

    fn judge(&self, one: &Encoded, told: Told, text: &str, answer: &mut Answer) -> Result<(), EvalError> {
        let (Body::Write { accepted, .. }, Asked::Write { answer: right, .. }) = (&one.item.body, &one.asked) else {
            return Ok(());
        };
        let told = name(told);
        let mut insert = |metric: &str, value: f64| answer.metrics.insert(format!("{metric},{told}"), value);
        let share = |right: bool| f64::from(u8::from(right));
        for metric in &self.task.metrics {
            match metric {
                Metric::ExactMatch => _ = insert("exact_match", share(matching::exact(text, accepted))),
                Metric::Contains => _ = insert("contains", share(matching::contains(text, accepted))),
                Metric::FinalAnswer => _ = insert("final_answer", share(matching::final_answer(text, accepted))),
                Metric::Rouge => {
                    let Rouge { one, two, longest } = Rouge::of(text, right);
                    for (metric, value) in [("rouge1", one), ("rouge2", two), ("rougeL", longest)] {
                        insert(metric, value);
                    }
                }
                Metric::PassAt1 => {
                    let mut row = one.item.row.clone();
                    row.insert("text".to_owned(), text.into());
                    let program = self.templates.text("program", one.item.id, &row)?;
                    let sandbox = self.sandbox.as_ref();
                    let passed = sandbox.map_or(Ok(false), |sandbox| sandbox.passes(&program));
                    let failed = |e| EvalError::question(&self.task.name, one.item.id, e, "the program cannot be run");
                    insert("pass_at_1", share(passed.map_err(failed)?));
                }
                Metric::Acc | Metric::AccNorm | Metric::Perplexity => {}
            }
        }
        Ok(())
    }
}

/// As metrics and files spell it.
fn name(told: Told) -> &'static str {
    match told {
        Told::Oracle => "oracle",
        Told::Unknown => "unknown",
    }
}

/// The number of the lowest value, the first if several are.
fn lowest(values: &[f64]) -> Option<usize> {
    (0..values.len()).min_by(|&a, &b| values[a].total_cmp(&values[b]))
}

fn decoding(task: &Task, session: &Session, seed: u64) -> Result<Decoding, EvalError> {
    let wrong = |e: &dyn std::fmt::Display| EvalError::task(&task.name, "decoding", e, "see `difflow sample --help`");
    let own = if task.decoding.is_empty() {
        Decoding::surest_first()
    } else {
        Decoding::default().with(&task.decoding).map_err(|e| wrong(&e))?
    };
    let decoder = if session.left_to_right() { Decoder::Ar } else { own.decoder };
    if matches!(task.kind, Kind::Gap | Kind::Generate) {
        session.decoder(decoder).map_err(|e| wrong(&e))?;
    }
    Ok(Decoding { decoder, seed, ..own })
}

/// An answer before anything is known but the question.
fn plain(one: &Encoded) -> Answer {
    let row = Json::Object(one.item.row.clone()).to_string();
    let answer = Answer { question: one.item.id, row, cut: one.cut, ..Answer::default() };
    match (&one.item.body, &one.asked) {
        (Body::Choice { candidates, gold }, _) => {
            let mut given: Vec<String> = candidates.iter().map(|candidate| candidate.context.clone()).collect();
            given.dedup();
            let candidates = candidates.iter().map(|candidate| candidate.label.clone()).collect();
            Answer { given, candidates, gold: Some(*gold as u64), ..answer }
        }
        (Body::Perplexity { text }, _) => Answer { given: vec![text.clone()], ..answer },
        (Body::Write { left, right, accepted, answer: right_answer }, asked) => {
            let tokens = match asked {
                Asked::Write { answer_tokens, .. } => vec![*answer_tokens as u64],
                _ => Vec::new(),
            };
            let given = std::iter::once(left).chain(right).cloned().collect();
            let candidates =
                if accepted.is_empty() { right_answer.iter().cloned().collect() } else { accepted.clone() };
            Answer { given, candidates, tokens, ..answer }
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
