//! Answers in pieces, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use difflow_inference::Step;
use futures::stream::unfold;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::ApiError;
use crate::frame::{Frame, filled};
use crate::plan::Plan;
use crate::running::{Event, Running, Text};
use crate::server::Shared;
use crate::writer::{Finish, Place};

/// Pieces of an answer that a slow reader may be behind.
const BEHIND: usize = 64;
/// Between two signs of life to a reader for whom there is no news.
const ALIVE: Duration = Duration::from_secs(15);

/// Answers with pieces as they come.
pub fn stream(shared: Arc<Shared>, client: String, running: Running, frame: Frame) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(BEHIND);
    // Who goes away takes the receiver along: the task ends with its next piece, and the texts with it.
    tokio::spawn(async move {
        if let Err(error) = tell((&shared, &client), running, &frame, &sender).await.unwrap_or(Ok(())) {
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
    (shared, client): (&Arc<Shared>, &str),
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
    let nothing = |number: &usize| running.texts[*number].is_some() && running.plan.logprobs.is_none();
    for number in (0..count).filter(nothing) {
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
            running.tell_first(shared);
            reader.send(data(&frame.chunk(number, Some(text), None, first[number]))).await.ok()?;
            first[number] = false;
        }
        // With log-probabilities the last piece of a text has them, and they come when all texts are there.
        if matches!(happened, Event::Finished) && running.plan.logprobs.is_none() {
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
    if running.plan.logprobs.is_some() {
        if let Err(error) = running.add_logprobs(shared, client).await {
            return Some(Err(error));
        }
        for (number, text) in running.texts.iter_mut().enumerate() {
            let Some(Text { logprobs, finish, .. }) = text else { continue };
            let mut chunk = frame.chunk(number, None, Some(finish.reason()), first[number]);
            chunk["choices"][0]["logprobs"] = frame.logprobs(std::mem::take(logprobs));
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
