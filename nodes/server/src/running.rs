//! The texts of a request on their way: they wait for their turn, grow, and are finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use difflow_inference::{Expected, Piece, Step, Written};
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;
use crate::frame::Usage;
use crate::logprobs;
use crate::plan::{Choice, Plan};
use crate::queue::Refused;
use crate::server::Shared;
use crate::worker::{Job, News, Scoring, Work};
use crate::writer::{Finish, Writer};

/// A finished text.
#[derive(Debug)]
pub struct Text {
    pub text: String,
    pub finish: Finish,
    pub tokens: usize,
    pub logprobs: Value,
    /// `None` where nothing was to be written.
    pub written: Option<Written>,
}

/// The texts of a request on their way. Dropping it ends them.
pub struct Running {
    pub plan: Plan,
    news: UnboundedReceiver<(usize, News)>,
    pub writers: Vec<Writer>,
    dropped: Vec<Arc<AtomicBool>>,
    /// What is finished, by number.
    pub texts: Vec<Option<Text>>,
    forwards: u64,
    deadline: Instant,
    started: Instant,
    /// Whether the first piece of text is there.
    told: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.dropped.iter().for_each(|dropped| dropped.store(true, Ordering::Relaxed));
    }
}

/// What happened to a text of a request.
pub enum Event {
    Step(Step),
    Finished,
}

impl Running {
    /// Sends the texts of a plan on their way, for a client. Errors if too many wait.
    pub async fn start(shared: &Arc<Shared>, client: &str, mut plan: Plan) -> Result<Self, ApiError> {
        let started = Instant::now();
        let deadline = started + shared.settings.limits.time;
        let mut forwards = 0;
        let watched = plan.delivery.stream || !plan.stops.is_empty();
        let (sender, news) = mpsc::unbounded_channel();
        let (mut works, mut writers, mut dropped, mut texts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for number in 0..plan.choices.len() {
            if plan.choices[number].text.has_open_lengths() {
                forwards += u64::from(measure(shared, &mut plan, number, deadline).await?);
            }
            let Choice { text, place, .. } = &plan.choices[number];
            writers.push(Writer::new(plan.model.clone(), *place, plan.stops.clone()));
            let dropped_here = Arc::new(AtomicBool::new(false));
            dropped.push(dropped_here.clone());
            let nothing = text.pieces.iter().all(|piece| !matches!(piece, Piece::Gap(gap) if gap.most > 0));
            texts.push(nothing.then(|| Text {
                text: String::new(),
                finish: Finish::Length,
                tokens: 0,
                logprobs: Value::Null,
                written: None,
            }));
            if nothing {
                continue;
            }
            works.push(Work::Write(Job {
                text: text.clone(),
                decoding: plan.decoding.clone(),
                number,
                watched,
                news: sender.clone(),
                dropped: dropped_here,
            }));
        }
        push(shared, client, works)?;
        shared.metrics.tokens(plan.prompt_tokens, 0);
        Ok(Self { plan, news, writers, dropped, texts, forwards, deadline, started, told: false })
    }

    /// What happens next, and to which text; `None` when all are finished. Errors if a text fails, or takes too long.
    pub async fn next(&mut self) -> Result<Option<(usize, Event)>, ApiError> {
        loop {
            if self.texts.iter().all(Option::is_some) {
                return Ok(None);
            }
            let news = timeout_at(self.deadline, self.news.recv()).await.map_err(|_| ApiError::timed_out())?;
            // Without a sender the texts are lost.
            let (number, news) = news.ok_or_else(ApiError::failed)?;
            if self.texts[number].is_some() {
                continue;
            }
            let failed = |e: difflow_text::TextError| {
                eprintln!("error: {e}");
                ApiError::failed()
            };
            let writer = &mut self.writers[number];
            match news {
                News::Failed(error) => return Err(error),
                News::Step(step) => {
                    writer.step(&step).map_err(failed)?;
                    // Log-probabilities are those of the tokens, which come with the end.
                    let early = writer.finish().filter(|_| self.plan.logprobs.is_none()).cloned();
                    if let Some(finish @ Finish::Stop(_)) = early {
                        self.dropped[number].store(true, Ordering::Relaxed);
                        self.finish(number, finish, None);
                        return Ok(Some((number, Event::Finished)));
                    }
                    return Ok(Some((number, Event::Step(step))));
                }
                News::Done(written) => {
                    writer.done(&written).map_err(failed)?;
                    let finish = writer.finish().cloned().unwrap_or(Finish::Length);
                    self.finish(number, finish, Some(written));
                    return Ok(Some((number, Event::Finished)));
                }
            }
        }
    }

    fn finish(&mut self, number: usize, finish: Finish, written: Option<Written>) {
        let writer = &self.writers[number];
        let whole = written.as_ref().filter(|_| !matches!(finish, Finish::Stop(_)));
        let tokens = whole.map_or_else(|| writer.certain(), |written| writer.count(written));
        self.forwards += written.as_ref().map_or(0, |written| u64::from(written.nfe));
        let text = writer.text().to_owned();
        self.texts[number] = Some(Text { text, finish, tokens, logprobs: Value::Null, written });
    }

    /// All texts, when they are finished. Errors as `next`.
    pub async fn whole(&mut self, shared: &Arc<Shared>, client: &str) -> Result<Finished, ApiError> {
        while let Some((_, event)) = self.next().await? {
            if matches!(event, Event::Step(_) | Event::Finished) {
                self.tell_first(shared);
            }
        }
        self.add_logprobs(shared, client).await?;
        let texts = std::mem::take(&mut self.texts).into_iter().flatten().collect();
        Ok(self.finished(shared, texts))
    }

    /// Counts texts that are finished; there are no others.
    pub fn finished(&mut self, shared: &Shared, texts: Vec<Text>) -> Finished {
        let completion = texts.iter().map(|text| text.tokens).sum();
        shared.metrics.tokens(0, completion);
        shared.metrics.whole(self.started.elapsed());
        Finished { texts, usage: Usage { prompt: self.plan.prompt_tokens, completion, forwards: self.forwards } }
    }

    /// Notes when the first piece of text was there.
    pub fn tell_first(&mut self, shared: &Shared) {
        if !self.told {
            self.told = true;
            shared.metrics.first(self.started.elapsed());
        }
    }

    /// Gives finished texts their log-probabilities, if they are wanted. Errors as `next`.
    pub async fn add_logprobs(&mut self, shared: &Arc<Shared>, client: &str) -> Result<(), ApiError> {
        let Some(best) = self.plan.logprobs else { return Ok(()) };
        let model = self.plan.model.clone();
        let all: Vec<Vec<u32>> = (self.plan.choices.iter().zip(&self.texts))
            .map(|(choice, text)| {
                let written = text.as_ref().and_then(|text| text.written.as_ref());
                written.map_or(&choice.prompt.tokens, |written| &written.tokens).clone()
            })
            .collect();
        let expected = if model.reads_on { Some(self.score(shared, client, all, best).await?) } else { None };
        for (number, (choice, text)) in self.plan.choices.iter().zip(&mut self.texts).enumerate() {
            let Some(text) = text else { continue };
            let expected = expected.as_ref().map(|all| &all[number][..]);
            let written = (text.written.as_ref(), text.text.as_str());
            text.logprobs = logprobs::of(&model, choice, written, (self.plan.echo, best), expected);
        }
        Ok(())
    }

    async fn score(
        &self,
        shared: &Arc<Shared>,
        client: &str,
        texts: Vec<Vec<u32>>,
        best: usize,
    ) -> Result<Vec<Vec<Expected>>, ApiError> {
        let (answer, scored) = oneshot::channel();
        push(shared, client, vec![Work::Score(Scoring { texts, best, answer })])?;
        let scored = timeout_at(self.deadline, scored).await.map_err(|_| ApiError::timed_out())?;
        scored.unwrap_or_else(|_| Err(ApiError::failed()))
    }
}

fn push(shared: &Shared, client: &str, works: Vec<Work>) -> Result<(), ApiError> {
    let (count, most) = (works.len(), shared.settings.limits.queue);
    if count > most {
        let message = format!("{count} texts in one request; allowed: {most}, prompts times n");
        return Err(ApiError::field("n", message));
    }
    shared.queue.push(client, works).map_err(|refused| match refused {
        Refused::Full => ApiError::full(),
        Refused::Ended => ApiError::ending(),
    })
}

/// Searches the lengths of a text's gaps; returns the canvases that it read for it.
async fn measure(shared: &Arc<Shared>, plan: &mut Plan, number: usize, deadline: Instant) -> Result<u32, ApiError> {
    let _waiting = shared.searches.clone().try_acquire_owned().map_err(|_| ApiError::full())?;
    let turn = timeout_at(deadline, shared.searching.acquire()).await.map_err(|_| ApiError::timed_out())?;
    let gone = Gone(Arc::default());
    let (flag, model) = (gone.0.clone(), plan.model.clone());
    let (text, decoding) = (plan.choices[number].text.clone(), plan.decoding.clone());
    let search = move || {
        let found = model.session.measured(&text, &decoding, &mut || !flag.load(Ordering::Relaxed));
        found.map_err(|e| model.error(&e))
    };
    let found = timeout_at(deadline, tokio::task::spawn_blocking(search)).await.map_err(|_| ApiError::timed_out())?;
    drop(turn);
    let (text, read) = found.map_err(|_| ApiError::failed())??;
    plan.choices[number].text = text;
    Ok(read)
}

/// Says so when it is dropped.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All texts of a request.
pub struct Finished {
    pub texts: Vec<Text>,
    pub usage: Usage,
}
