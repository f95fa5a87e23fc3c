//! From a plan to its answer: the texts wait for their turn, grow, and are handed out as the route promises.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use difflow_inference::{Expected, Piece, Step, Written};
use futures::stream::unfold;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;
use crate::logprobs;
use crate::plan::{Choice, Plan};
use crate::queue::Refused;
use crate::server::Shared;
use crate::worker::{Job, News, Scoring, Work};
use crate::writer::{Finish, Place, Writer};

/// Pieces of an answer that a slow reader may be behind.
const BEHIND: usize = 64;
/// Between two signs of life to a reader for whom there is no news.
const ALIVE: Duration = Duration::from_secs(15);

/// What an answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Completion,
    Chat,
    /// As Mistral answers to fill in the middle: the form of a chat.
    Fim,
}

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
    writers: Vec<Writer>,
    dropped: Vec<Arc<AtomicBool>>,
    /// What is finished, by number.
    texts: Vec<Option<Text>>,
    forwards: u64,
    deadline: Instant,
    started: Instant,
    told: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.dropped.iter().for_each(|dropped| dropped.store(true, Ordering::Relaxed));
    }
}

/// What happened to a text of a request.
enum Event {
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
    async fn next(&mut self) -> Result<Option<(usize, Event)>, ApiError> {
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
            if !self.told && matches!(event, Event::Step(_) | Event::Finished) {
                self.told = true;
                shared.metrics.first(self.started.elapsed());
            }
        }
        if let Some(best) = self.plan.logprobs {
            self.add_logprobs(shared, client, best).await?;
        }
        let texts = std::mem::take(&mut self.texts).into_iter().flatten().collect();
        Ok(self.finished(shared, texts))
    }

    fn finished(&mut self, shared: &Shared, texts: Vec<Text>) -> Finished {
        let completion = texts.iter().map(|text| text.tokens).sum();
        shared.metrics.tokens(0, completion);
        shared.metrics.whole(self.started.elapsed());
        Finished { texts, usage: Usage { prompt: self.plan.prompt_tokens, completion, forwards: self.forwards } }
    }

    async fn add_logprobs(&mut self, shared: &Arc<Shared>, client: &str, best: usize) -> Result<(), ApiError> {
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

/// What a request took.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub prompt: usize,
    pub completion: usize,
    pub forwards: u64,
}

impl Usage {
    fn json(self) -> Value {
        let Self { prompt, completion, forwards } = self;
        let total = prompt + completion;
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, "forwards": forwards})
    }
}

/// What all parts of an answer have in common.
struct Frame {
    form: Form,
    id: String,
    created: u64,
    model: String,
    seed: u64,
}

impl Frame {
    fn new(shared: &Shared, form: Form, seed: u64) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let kind = if form == Form::Completion { "cmpl" } else { "chatcmpl" };
        let created = seconds_since_1970();
        let id = format!("{kind}-{created:x}{number:06x}");
        Self { form, id, created, model: shared.settings.name.clone(), seed }
    }

    fn around(&self, object: &str, choices: Vec<Value>, usage: Option<Usage>) -> Value {
        let Self { id, created, model, seed, .. } = self;
        let mut all = json!({
            "id": id, "object": object, "created": created, "model": model, "choices": choices, "seed": seed,
            "system_fingerprint": concat!("difflow-", env!("CARGO_PKG_VERSION"))
        });
        if let Some(usage) = usage {
            all["usage"] = usage.json();
        }
        all
    }

    fn whole(&self, plan: &Plan, finished: Finished) -> Value {
        let Finished { texts, usage } = finished;
        let choices = (plan.choices.iter().zip(texts).enumerate())
            .map(|(index, (choice, Text { text, finish, logprobs, written, .. }))| {
                let reason = finish.reason();
                if self.form != Form::Completion {
                    let message = json!({"role": "assistant", "content": text});
                    return json!({"index": index, "message": message, "logprobs": null, "finish_reason": reason});
                }
                let text =
                    if plan.echo && choice.place != Place::Whole { choice.prompt.text.clone() + &text } else { text };
                let mut one = json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason});
                if let Some(written) = written.filter(|_| choice.place == Place::Whole) {
                    one["filled"] = filled(plan, &written).into();
                }
                one
            })
            .collect();
        let object = if self.form == Form::Completion { "text_completion" } else { "chat.completion" };
        self.around(object, choices, Some(usage))
    }

    fn chunk(&self, index: usize, text: Option<String>, reason: Option<&str>, first: bool) -> Value {
        let choice = match self.form {
            Form::Completion => {
                let text = text.unwrap_or_default();
                json!({"index": index, "text": text, "logprobs": null, "finish_reason": reason})
            }
            Form::Chat | Form::Fim => {
                let mut delta = Map::new();
                if first {
                    delta.insert("role".into(), "assistant".into());
                }
                delta.extend(text.map(|text| ("content".to_owned(), text.into())));
                json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": reason})
            }
        };
        self.around(self.chunks(), vec![choice], None)
    }

    fn chunks(&self) -> &'static str {
        if self.form == Form::Completion { "text_completion" } else { "chat.completion.chunk" }
    }
}

/// What was filled in, one entry a gap.
fn filled(plan: &Plan, written: &Written) -> Vec<String> {
    let words = plan.model.session.words();
    let tokens: Vec<(u32, bool)> = written.tokens.iter().copied().zip(written.filled.iter().copied()).collect();
    let gaps = tokens.chunk_by(|a, b| a.1 == b.1).filter(|part| part[0].1);
    gaps.map(|gap| {
        let ids: Vec<u32> = gap.iter().map(|(token, _)| *token).filter(|token| *token != words.eos).collect();
        words.decode_inner(&ids).unwrap_or_default()
    })
    .collect()
}

/// A label for people: nothing is decided by it.
pub fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Answers a plan.
pub async fn answer(shared: Arc<Shared>, client: String, plan: Plan, form: Form) -> Result<Response, ApiError> {
    let frame = Frame::new(&shared, form, plan.decoding.seed);
    let ignored = plan.ignored.join(", ");
    let mut answer = if plan.delivery.stream {
        let running = Running::start(&shared, &client, plan).await?;
        stream(shared, running, frame)
    } else {
        let mut running = Running::start(&shared, &client, plan).await?;
        let finished = running.whole(&shared, &client).await?;
        json_answer(&frame.whole(&running.plan, finished))
    };
    if !ignored.is_empty() {
        let name = HeaderName::from_static("x-difflow-ignored");
        answer.headers_mut().extend(HeaderValue::from_str(&ignored).ok().map(|value| (name, value)));
    }
    Ok(answer)
}

pub fn json_answer(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn stream(shared: Arc<Shared>, running: Running, frame: Frame) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(BEHIND);
    // Who goes away takes the receiver along: the task ends with its next piece, and the texts with it.
    tokio::spawn(async move {
        if let Err(error) = tell(&shared, running, &frame, &sender).await.unwrap_or(Ok(())) {
            _ = sender.send(data(&error.body())).await;
        }
    });
    let pieces = unfold(receiver, |mut receiver| async {
        let piece = match tokio::time::timeout(ALIVE, receiver.recv()).await {
            Ok(piece) => piece?,
            Err(_) => Bytes::from_static(b": still here\n\n"),
        };
        Some((Ok::<_, Infallible>(piece), receiver))
    });
    ([(CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from_stream(pieces)).into_response()
}

fn data(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

/// Tells a reader everything, piece by piece. `None`: it has gone.
async fn tell(
    shared: &Arc<Shared>,
    mut running: Running,
    frame: &Frame,
    reader: &mpsc::Sender<Bytes>,
) -> Option<Result<(), ApiError>> {
    let canvas = running.plan.delivery.canvas;
    let count = running.plan.choices.len();
    let mut first = vec![true; count];
    if canvas {
        for number in 0..count {
            reader.send(event(&start(&running.plan, number))).await.ok()?;
        }
    }
    for number in (0..count).filter(|number| running.plan.echo && running.plan.choices[*number].place != Place::Whole) {
        let prompt = running.plan.choices[number].prompt.text.clone();
        reader.send(data(&frame.chunk(number, Some(prompt), None, first[number]))).await.ok()?;
        first[number] = false;
    }
    // Nothing was to be written.
    for number in (0..count).filter(|number| running.texts[*number].is_some()) {
        reader.send(data(&frame.chunk(number, None, Some("length"), first[number]))).await.ok()?;
    }
    loop {
        let (number, happened) = tokio::select! {
            next = running.next() => match next {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => return Some(Err(error)),
            },
            // Whoever has gone waits for no next piece.
            () = reader.closed() => return None,
        };
        if let (Event::Step(step), true) = (&happened, canvas) {
            reader.send(event(&revealed(&running.plan, number, step))).await.ok()?;
        }
        if let Some(text) = running.writers[number].news() {
            if !running.told {
                running.told = true;
                shared.metrics.first(running.started.elapsed());
            }
            reader.send(data(&frame.chunk(number, Some(text), None, first[number]))).await.ok()?;
            first[number] = false;
        }
        if let Event::Finished = happened {
            let reason = running.writers[number].finish().map(Finish::reason);
            let mut chunk = frame.chunk(number, None, reason, first[number]);
            let whole = running.plan.choices[number].place == Place::Whole;
            let written = running.texts[number].as_ref().and_then(|text| text.written.as_ref());
            if let Some(written) = written.filter(|_| whole) {
                chunk["choices"][0]["filled"] = filled(&running.plan, written).into();
            }
            reader.send(data(&chunk)).await.ok()?;
        }
    }
    let texts = std::mem::take(&mut running.texts).into_iter().flatten().collect();
    let usage = running.finished(shared, texts).usage;
    if running.plan.delivery.usage {
        reader.send(data(&frame.around(frame.chunks(), Vec::new(), Some(usage)))).await.ok()?;
    }
    reader.send(Bytes::from_static(b"data: [DONE]\n\n")).await.ok()?;
    Some(Ok(()))
}

fn event(value: &Value) -> Bytes {
    format!("event: canvas\ndata: {value}\n\n").into()
}

/// A canvas before anything is revealed on it: the tokens that are given, null for those that are not.
fn start(plan: &Plan, number: usize) -> Value {
    let canvas = plan.choices[number].text.longest();
    let ends = plan.model.session.stops();
    let given = canvas.tokens.iter().zip(&canvas.masked).enumerate().map(|(at, (&id, &masked))| match (at, masked) {
        (_, true) => Value::Null,
        // Neither the anchor nor the end is part of the text.
        (0, false) => "".into(),
        (_, false) if ends.contains(&id) => "".into(),
        (_, false) => plan.model.token(id).as_ref().into(),
    });
    json!({"index": number, "tokens": given.collect::<Vec<_>>()})
}

/// What a forward revealed.
fn revealed(plan: &Plan, number: usize, step: &Step) -> Value {
    let ends = plan.model.session.stops();
    let one = |reveal: &difflow_inference::Reveal| {
        let text = if ends.contains(&reveal.token) { "".into() } else { plan.model.token(reveal.token) };
        let probability = Some(reveal.probability).filter(|probability| probability.is_finite());
        json!({
            "position": reveal.position, "token": reveal.token, "text": &*text, "probability": probability,
            "end": ends.contains(&reveal.token)
        })
    };
    let revealed: Vec<Value> = step.reveals.iter().map(one).collect();
    json!({"index": number, "open": [step.open.start, step.open.end], "revealed": revealed})
}
