//! Quality of many decoding methods, each against the number of forwards it takes: `difflow sample --measure`.

use std::time::Instant;

use difflow_model::{GapLength, Piece, Template};
use difflow_text::{Gap as GapText, Lengths, distinct, entropy, repetition};
use serde::Serialize;

use crate::checker::{Checker, Judged, OK};
use crate::decoding::{Decoder, Decoding};
use crate::error::InferenceError;
use crate::gaps::{Gap, every_second_sentence_hidden};
use crate::likelihood::{Batching, Noise};
use crate::progress::{GoOn, Progress};
use crate::session::Session;
use crate::task::{Answer, Asking, Filled, Reading, Task};
use crate::ways::{self, Way};
use crate::writing::Written;

/// Texts that are written one at a time to tell how fast that is.
const ALONE: usize = 8;

/// What to measure, and with what.
pub struct Measuring<'a> {
    /// The model.
    pub session: &'a Session,
    /// A base model that rates the texts and is measured itself.
    pub judge: Option<&'a Session>,
    /// Tells whether a text is right.
    pub checker: Option<&'a Checker>,
    /// Gaps with answers.
    pub gaps: &'a [GapText],
    /// What all measured decodings share: sampling, seed, guidance, refresh.
    pub decoding: Decoding,
    /// Texts from nothing of each way, and their lengths in tokens.
    pub count: u64,
    pub length: Lengths,
    /// Texts per forward.
    pub rows: usize,
}

/// What was measured of one decoding. A number that was not asked for is absent.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    pub family: &'static str,
    pub setting: String,
    /// Mean forwards per text.
    pub nfe: f64,
    /// Forwards over written tokens, of all texts.
    pub forwards_per_token: f64,
    /// Where drafts are checked: those that were kept, over all forwards.
    pub accepted_per_forward: Option<f64>,
    /// Generated tokens (end-of-text included) over the seconds of all batches.
    pub tokens_per_s: f64,
    /// The same of some texts that are written one at a time, for models that write block by block.
    pub tokens_per_s_alone: Option<f64>,
    pub pass_rate: Option<f64>,
    pub infill_exact_match: Option<f64>,
    pub infill_nfe: Option<f64>,
    /// Share of the texts that pass the checker after every second sentence was hidden and regenerated; below, forwards
    /// per text.
    pub completed_pass_rate: Option<f64>,
    pub completed_nfe: Option<f64>,
    /// Perplexity of the texts under the judge.
    pub perplexity: Option<f64>,
    pub distinct_1: f64,
    pub distinct_2: f64,
    pub distinct_3: f64,
    pub entropy: f64,
    pub repetition: f64,
}

/// A share of texts, and forwards per text.
struct Share {
    share: f64,
    nfe: f64,
}

impl Measuring<'_> {
    /// Measures every decoding, the base model's own last, and calls `each` with every row as soon as it is known.
    /// Errors if a text cannot be encoded or decoded, if the checker fails, or with the error of `each` or `go_on`.
    pub fn run<E: From<InferenceError>>(
        &self,
        go_on: &mut GoOn<E>,
        each: &mut dyn FnMut(&Row) -> Result<(), E>,
    ) -> Result<Vec<Row>, E> {
        let words = self.session.words();
        let gaps = self.gaps.iter().map(|gap| Ok(Task::Gap(Gap::of_text(gap, words)?)));
        let gaps = gaps.collect::<Result<Vec<Task>, InferenceError>>()?;
        let mut unfinished = Vec::new();
        if self.checker.is_some() {
            for (key, gap) in (0..).zip(self.gaps) {
                unfinished.push(every_second_sentence_hidden(gap, words, key).map_err(InferenceError::from)?);
            }
        }
        let mut rows = Vec::new();
        for way in ways::of(self.session, &self.decoding, self.judge.is_some()) {
            let row = self.measure(&way, &gaps, &unfinished, go_on)?;
            each(&row)?;
            rows.push(row);
        }
        Ok(rows)
    }

    fn measure<E: From<InferenceError>>(
        &self,
        way: &Way,
        gaps: &[Task],
        unfinished: &[Template],
        go_on: &mut GoOn<E>,
    ) -> Result<Row, E> {
        let writer = self.judge.filter(|_| way.by_judge).unwrap_or(self.session);
        let nothing = self.unprompted(way);
        let mut write = |texts: &[Template], rows: usize| {
            let start = Instant::now();
            let written = writer.write(texts, &way.decoding, rows, &mut |_, _| {}, go_on)?;
            Ok::<_, E>((written, start.elapsed().as_secs_f64()))
        };
        let (written, seconds) = write(&nothing, self.rows)?;
        let alone = if self.session.blocks().is_some() {
            let (written, seconds) = write(&nothing[..nothing.len().min(ALONE)], 1)?;
            let tokens: usize = written.iter().map(|text| text.tokens.len() - 1).sum();
            Some(tokens as f64 / seconds)
        } else {
            None
        };
        let texts = self.texts(&written)?;
        let sequences: Vec<Vec<u32>> = written.iter().map(|text| text.tokens.clone()).collect();
        let bodies: Vec<Vec<u32>> = sequences.iter().map(|ids| ids[1..].to_vec()).collect();
        let tokens: usize = bodies.iter().map(Vec::len).sum();
        let distinct = |n| distinct(n, texts.iter().map(String::as_str));
        // From left to right what follows a gap cannot be seen.
        let left_to_right = left_to_right(way);
        let gaps = if left_to_right || self.session.fills_gaps() { gaps } else { &[] };
        let infill = if gaps.is_empty() { None } else { Some(self.infill(writer, way, gaps, go_on)?) };
        let unfinished = if left_to_right || !self.session.fills_gaps() { &[] } else { unfinished };
        let completed = if unfinished.is_empty() { None } else { Some(self.completed(way, unfinished, go_on)?) };
        let judged = self.judge.map(|judge| judge.perplexity_of(&sequences, self.rows)).transpose()?;
        let count = written.len() as f64;
        let forwards: f64 = written.iter().map(|text| f64::from(text.nfe)).sum();
        let accepted: f64 = written.iter().map(|text| f64::from(text.accepted)).sum();
        let drafts = written.iter().any(|text| text.drafted > 0);
        Ok(Row {
            family: way.family,
            setting: way.setting.clone(),
            nfe: forwards / count,
            forwards_per_token: forwards / tokens as f64,
            accepted_per_forward: drafts.then(|| accepted / forwards),
            tokens_per_s: tokens as f64 / seconds,
            tokens_per_s_alone: alone,
            pass_rate: self.checker.map(|checker| passed(checker, &texts, go_on)).transpose()?,
            infill_exact_match: infill.as_ref().map(|found| found.share),
            infill_nfe: infill.map(|found| found.nfe),
            completed_pass_rate: completed.as_ref().map(|found| found.share),
            completed_nfe: completed.map(|found| found.nfe),
            perplexity: judged,
            distinct_1: distinct(1),
            distinct_2: distinct(2),
            distinct_3: distinct(3),
            entropy: entropy(&bodies),
            repetition: repetition(&bodies),
        })
    }

    /// Empty texts of drawn lengths; from left to right or block by block a text may become as long as the longest.
    fn unprompted(&self, way: &Way) -> Vec<Template> {
        let bos = self.session.words().bos;
        let template = |key| {
            let drawn = self.length.draw(self.decoding.seed, key);
            let length = if way.by_judge || self.session.blocks().is_some() { self.length.high } else { drawn };
            let gap = Piece::Gap(GapLength { least: length, most: length });
            Template { pieces: vec![Piece::Tokens(vec![bos]), gap], key }
        };
        (0..self.count).map(template).collect()
    }

    fn texts(&self, written: &[Written]) -> Result<Vec<String>, InferenceError> {
        let words = self.session.words();
        written.iter().map(|text| Ok(words.decode(text.body())?)).collect()
    }

    /// Share of the gaps that are filled with the answer: most probable tokens, its length given.
    fn infill<E: From<InferenceError>>(
        &self,
        writer: &Session,
        way: &Way,
        gaps: &[Task],
        go_on: &mut GoOn<E>,
    ) -> Result<Share, E> {
        let asking = Asking {
            reading: if left_to_right(way) { Reading::LeftToRight } else { Reading::Trained },
            decoding: way.decoding.clone().most_probable(),
            noise: Noise { seed: 0, draws: 1 },
            batching: Batching::Rows(self.rows),
            rows: self.rows,
        };
        let (mut right, mut nfe) = (0, 0);
        for answer in writer.answer(gaps, &asking, go_on)? {
            if let Answer::Gap(Filled { exact, nfe: forwards, .. }) = answer {
                right += usize::from(exact == Some(true));
                nfe += forwards;
            }
        }
        let count = gaps.len() as f64;
        Ok(Share { share: right as f64 / count, nfe: f64::from(nfe) / count })
    }

    /// Share of the unfinished texts that the checker passes when they are filled.
    fn completed<E: From<InferenceError>>(
        &self,
        way: &Way,
        unfinished: &[Template],
        go_on: &mut GoOn<E>,
    ) -> Result<Share, E> {
        let written = self.session.write(unfinished, &way.decoding, self.rows, &mut |_, _| {}, go_on)?;
        let words = self.session.words();
        let text = |one: &Written| Ok(words.decode(&one.tokens[1..one.tokens.len() - 1])?);
        let texts = written.iter().map(text).collect::<Result<Vec<_>, InferenceError>>()?;
        let nfe: u32 = written.iter().map(|one| one.nfe).sum();
        let share = self.checker.map_or(Ok(f64::NAN), |checker| passed(checker, &texts, go_on))?;
        Ok(Share { share, nfe: f64::from(nfe) / written.len() as f64 })
    }
}

/// Whether a way sees only what stands before.
fn left_to_right(way: &Way) -> bool {
    way.by_judge || way.decoding.decoder == Decoder::Ar
}

/// Share of the texts that the checker passes.
fn passed<E: From<InferenceError>>(checker: &Checker, texts: &[String], go_on: &mut GoOn<E>) -> Result<f64, E> {
    let progress = Progress { done: texts.len(), of: texts.len() };
    let texts: Vec<Judged> = texts.iter().map(|text| Judged::Text { text: text.clone() }).collect();
    let verdicts = checker.verdicts(&texts, &mut || go_on(progress))?;
    Ok(verdicts.iter().filter(|verdict| *verdict == OK).count() as f64 / texts.len() as f64)
}
