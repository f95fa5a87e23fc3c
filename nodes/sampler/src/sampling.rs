//! Generating texts with a checkpoint, and judging them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use difflow_inference::documents::{self, MESSAGES};
use difflow_inference::{
    Chat, Checker, Decoder, Decoding, Gap, GapLength, Judged, OK, Peers, Piece, Session, Template, Written,
};
use difflow_node_kit::{Problem, Problems};
use difflow_schema::{self as schema, Checkpoint, Text, Texts, Unmasked};
use difflow_text::{Gap as GapText, Lengths, Words, distinct, entropy, read_gaps, repetition};
use eyre::{Context, Result};
use serde_json::Value;

use crate::config::{CANVAS, Config};

/// The kind of a text that answers a prompt.
const ANSWER: &str = "answer";

/// Everything that is needed to let any checkpoint write.
pub struct Sampler {
    config: Config,
    /// `None`: those of the canvas that a checkpoint was trained with.
    lengths: Option<Lengths>,
    checker: Option<Checker>,
    gaps: Vec<GapText>,
}

impl Sampler {
    /// Looks at device, checker and gaps. Errors with [`Problems`] that name the key of whatever is missing or wrong.
    pub fn open(config: Config) -> Result<Self, Problems> {
        config.compute.check().map_err(|e| Problem::new("DEVICE", &config.compute.device, e.to_string()))?;
        let lengths = Lengths::parse(&config.lengths);
        if lengths.is_none() && config.lengths != CANVAS {
            let allowed = "allowed: two numbers such as 80..125, or canvas";
            return Err(Problem::new("LENGTHS", &config.lengths, allowed).into());
        }
        let checker = Checker::open(&config.checker)
            .map_err(|e| Problem::new("CHECKER", &config.checker, format!("{e}; empty for nobody")))?;
        let mut gaps = Vec::new();
        if !config.infill.is_empty() && config.infill_samples > 0 {
            gaps = read_gaps(Path::new(&config.infill))
                .map_err(|e| Problem::new("INFILL", &config.infill, format!("{e}; empty for none")))?;
            gaps.truncate(config.infill_samples);
        }
        Ok(Self { config, lengths, checker, gaps })
    }

    /// The keys that decide the texts of a checkpoint.
    pub fn settings(&self, checkpoint: &Checkpoint) -> Value {
        self.config.settings(checkpoint.step, steps(checkpoint))
    }

    /// The most of the time that this takes while the run trains.
    pub fn share(&self) -> f64 {
        self.config.compute.share()
    }

    /// Texts of a checkpoint; `go_on` is asked before every batch and while the checker works. Errors if the checkpoint cannot be
    /// loaded, a key does not fit it, the checker fails, or with the error of `go_on`.
    pub fn write(&self, checkpoint: &Checkpoint, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Texts> {
        let start = Instant::now();
        let session = Session::open(Path::new(&checkpoint.path), &self.config.compute.opening())
            .with_context(|| format!("checkpoint of step {}", checkpoint.step))?;
        let (words, peers) = (session.words().clone(), session.peers());
        let count = self.config.count(checkpoint.step, steps(checkpoint));
        let left_to_right = session.left_to_right();
        let decoder = if left_to_right { Decoder::Ar } else { self.config.decoding.decoder };
        for doubt in session.doubts(&self.config.decoding) {
            eprintln!("warning: {doubt}");
        }
        let chat = session.chat()?;
        let (prompts, asked) = match &chat {
            Some(chat) => self.prompted(&session, chat, count, go_on)?.into_iter().unzip(),
            None => (Vec::new(), self.unprompted(&session, count)?),
        };
        let mut write = |texts: &[Template], decoding: &Decoding| {
            session.write(texts, decoding, self.config.sample_batch, &mut |_, _| {}, &mut |_| go_on())
        };
        let free = write(&asked, &Decoding { decoder, ..self.config.decoding.clone() })?;
        // Only a diffusion model that was trained on whole rows sees what stands right of a gap.
        let gaps = if session.fills_gaps() { &self.gaps[..] } else { &[] };
        let cut = gaps.iter().map(|gap| Gap::of_text(gap, &words)).collect::<Result<Vec<Gap>, _>>()?;
        let both: Vec<Template> = (0..).zip(&cut).map(|(key, gap)| gap.both_sides(key)).collect();
        let filled = write(&both, &Decoding::surest_first())?;
        drop(session);
        let mut samples = Vec::with_capacity(free.len() + filled.len());
        let kind = if chat.is_some() { ANSWER } else { "unconditional" };
        for (index, written) in (0..).zip(&free) {
            samples.push(text(kind, index, written, own(written), &words)?);
        }
        samples.iter_mut().zip(prompts).for_each(|(sample, prompt)| sample.prompt = prompt);
        self.check(&mut samples, go_on)?;
        let mut metrics = metrics(&samples, &free, chat.is_some());
        for ((index, written), (shown, gap)) in (0..).zip(&filled).zip(gaps.iter().zip(&cut)) {
            let mut sample = text("infill", index, written, 1..written.tokens.len() - 1, &words)?;
            sample.prompt = prompt(shown);
            let right = gap.matches(&written.filling(), &words)?;
            sample.verdict = if right { OK.to_owned() } else { format!("wanted `{}`", shown.answer.trim()) };
            samples.push(sample);
        }
        // A judge of answers would judge the prompts, too.
        let judged = if chat.is_some() { None } else { self.judge(&peers, &free)? };
        metrics.extend(judged.map(|value| ("judge_perplexity".to_owned(), value.is_finite().then_some(value))));
        Ok(Texts {
            step: checkpoint.step,
            checkpoint_sha256: checkpoint.sha256.clone(),
            tokens_seen: checkpoint.tokens_seen,
            settings: self.settings(checkpoint),
            metrics,
            seconds: start.elapsed().as_secs_f64(),
            content: schema::Written { samples },
        })
    }

    /// `<bos>` and a drawn number of positions; what ends its texts itself is given no length, and may write as much as the longest.
    fn unprompted(&self, session: &Session, count: u64) -> Result<Vec<Template>, Problems> {
        let lengths = self.lengths(session)?;
        let open = session.left_to_right() || session.blocks().is_some();
        let one = |key| {
            let length = if open { lengths.high } else { lengths.draw(self.config.decoding.seed, key) };
            let gap = Piece::Gap(GapLength { least: length, most: length });
            Template { pieces: vec![Piece::Tokens(vec![session.words().bos]), gap], key }
        };
        Ok((0..count).map(one).collect())
    }

    /// Prompts of the run's held-out conversations, as people read them and as the model is asked; of those that leave no room for an answer,
    /// none. What ends its answers itself has the room of a training row.
    fn prompted(
        &self,
        session: &Session,
        chat: &Chat,
        count: u64,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<(String, Template)>> {
        let path = self.config.run.dir().heldout();
        documents::wait_for(&path, go_on)?;
        if !path.is_file() {
            return Ok(Vec::new());
        }
        let ends = session.left_to_right() || session.room().is_some();
        let given = if ends { None } else { Some(self.lengths(session)?) };
        let row = session.canvas().unwrap_or_else(|| session.sequence_length());
        let mut prompts = Vec::new();
        for (key, conversation) in (0..).zip(documents::conversations(&path, MESSAGES, count as usize)?) {
            let (_, asking) = conversation.messages().split_last().unwrap_or((&Value::Null, &[]));
            let tokens = chat.question(asking)?;
            let drawn = given.map(|lengths| lengths.draw(self.config.decoding.seed, key));
            let room = row.saturating_sub(tokens.len()).min(drawn.unwrap_or(usize::MAX));
            if room > 0 {
                let gap = Piece::Gap(GapLength { least: room, most: room });
                let shown = asking.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
                prompts.push((shown.to_owned(), Template { pieces: vec![Piece::Tokens(tokens), gap], key }));
            }
        }
        Ok(prompts)
    }

    /// Tokens of a text from nothing. Errors if the model has no canvas of its own, or not so many positions.
    fn lengths(&self, session: &Session) -> Result<Lengths, Problems> {
        let own = || {
            let length = session.room()? - 1;
            Some(Lengths { low: length, high: length })
        };
        let Some(lengths) = self.lengths.or_else(own) else {
            let allowed = "allowed: two numbers such as 80..125; this model was trained on canvases that end with their text (OPEN_END: 0)";
            return Err(Problem::new("LENGTHS", &self.config.lengths, allowed).into());
        };
        match session.longest().filter(|longest| lengths.high >= *longest) {
            None => Ok(lengths),
            Some(longest) => {
                let allowed = format!("allowed: at most {}, the positions of the model less the anchor", longest - 1);
                Err(Problem::new("LENGTHS", &self.config.lengths, allowed).into())
            }
        }
    }

    /// Asks the checker about texts from nothing, or about answers with their prompts.
    fn check(&self, samples: &mut [Text], go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let Some(checker) = &self.checker else { return Ok(()) };
        let judged = |sample: &Text| match sample.kind.as_str() {
            ANSWER => Judged::Exchange { prompt: sample.prompt.clone(), response: sample.text.clone() },
            _ => Judged::Text { text: sample.text.clone() },
        };
        let texts: Vec<Judged> = samples.iter().map(judged).collect();
        for (sample, verdict) in samples.iter_mut().zip(checker.verdicts(&texts, go_on)?) {
            sample.verdict = verdict;
        }
        Ok(())
    }

    /// Perplexity of what was written, anchor and end included; `None` without a judge.
    fn judge(&self, peers: &Peers, written: &[Written]) -> Result<Option<f64>> {
        if written.is_empty() || self.config.judge == "none" {
            return Ok(None);
        }
        let judge = if self.config.judge.is_empty() {
            peers.base().context("the base model of the run, which judges the texts (JUDGE: none for no judge)")?
        } else {
            let wrong = |e: difflow_inference::InferenceError| {
                Problems::from(Problem::new("JUDGE", &self.config.judge, format!("{e}; none for no judge")))
            };
            Some(peers.model(Path::new(&self.config.judge)).map_err(wrong)?)
        };
        let sequences: Vec<Vec<u32>> = written.iter().map(|text| text.tokens.clone()).collect();
        Ok(judge.map(|judge| judge.perplexity_of(&sequences, self.config.sample_batch)).transpose()?)
    }
}

/// Optimizer steps of the run that a checkpoint is of; `None` where it does not say, or is there no more.
fn steps(checkpoint: &Checkpoint) -> Option<u64> {
    difflow_inference::Facts::read(Path::new(&checkpoint.path)).ok()?.steps
}

/// What was given, as text: the story with `[…]` in the place of the gap.
fn prompt(gap: &GapText) -> String {
    let space = if gap.answer.starts_with(' ') { " " } else { "" };
    format!("{}{space}[…]{}", gap.left, gap.right)
}

/// Places of the tokens that the model wrote behind what was given, without the one that ended them.
fn own(written: &Written) -> Range<usize> {
    let end = written.tokens.len() - usize::from(written.stopped);
    written.filled.iter().position(|&filled| filled).unwrap_or(end).min(end)..end
}

/// A written text; `shown` are the places of its tokens that are shown.
fn text(kind: &str, index: u64, written: &Written, shown: Range<usize>, words: &Words) -> Result<Text> {
    let of = |at: usize| written.history.iter().find(|reveal| reveal.position as usize == at);
    let token = |at: usize| {
        let text = words.decode_inner(&written.tokens[at..=at])?;
        let (step, probability) = of(at).map(|reveal| (reveal.step, reveal.probability)).unzip();
        Ok(Unmasked { text, step, probability })
    };
    let told = if written.history.is_empty() { 0..0 } else { shown.clone() };
    Ok(Text {
        index,
        kind: kind.to_owned(),
        prompt: String::new(),
        text: words.decode(&written.tokens[shown])?,
        verdict: String::new(),
        nfe: u64::from(written.nfe),
        seconds: written.seconds,
        history: told.map(token).collect::<Result<_>>()?,
    })
}

/// pass_rate and samples_checked where texts were checked, and how varied they are where there are any; of `answers`, how many end.
fn metrics(samples: &[Text], written: &[Written], answers: bool) -> BTreeMap<String, Option<f64>> {
    let checked = samples.iter().filter(|sample| !sample.verdict.is_empty()).count();
    let passed = samples.iter().filter(|sample| sample.verdict == OK).count();
    let mut metrics = BTreeMap::new();
    if !samples.is_empty() {
        let texts = || samples.iter().map(|sample| sample.text.as_str());
        for (name, n) in [("distinct_1", 1), ("distinct_2", 2), ("distinct_3", 3)] {
            metrics.insert(name, distinct(n, texts()));
        }
        let from = |text: &Written| if answers { own(text).start } else { 0 };
        let tokens: Vec<Vec<u32>> = written.iter().map(|text| text.tokens[from(text)..].to_vec()).collect();
        if answers {
            let ended = written.iter().filter(|text| text.stopped).count();
            metrics.insert("ended_rate", ended as f64 / written.len() as f64);
        }
        metrics.insert("entropy", entropy(&tokens));
        metrics.insert("repetition", repetition(&tokens));
        metrics.insert("nfe", samples.iter().map(|sample| sample.nfe as f64).sum::<f64>() / samples.len() as f64);
    }
    if checked > 0 {
        metrics.insert("pass_rate", passed as f64 / checked as f64);
        metrics.insert("samples_checked", checked as f64);
    }
    metrics.into_iter().map(|(name, value)| (name.to_owned(), value.is_finite().then_some(value))).collect()
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
