//! What answers look like, whole and in pieces.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use difflow_inference::Written;
use serde_json::{Map, Value, json};

use crate::logprobs;
use crate::plan::Plan;
use crate::running::{Finished, Text};
use crate::server::Shared;
use crate::writer::Place;

/// What an answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Completion,
    Chat,
    /// As Mistral answers to fill in the middle: the form of a chat.
    Fim,
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
pub struct Frame {
    form: Form,
    id: String,
    created: u64,
    model: String,
    seed: u64,
}

impl Frame {
    pub fn new(shared: &Shared, form: Form, seed: u64) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let kind = if form == Form::Completion { "cmpl" } else { "chatcmpl" };
        let created = seconds_since_1970();
        let id = format!("{kind}-{created:x}{number:06x}");
        Self { form, id, created, model: shared.settings.name.clone(), seed }
    }

    /// An answer or a piece of one.
    pub fn around(&self, object: &str, choices: Vec<Value>, usage: Option<Usage>) -> Value {
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

    /// A whole answer.
    pub fn whole(&self, plan: &Plan, finished: Finished) -> Value {
        let Finished { texts, usage } = finished;
        let choices = (plan.choices.iter().zip(texts).enumerate())
            .map(|(index, (choice, Text { text, finish, logprobs, written, .. }))| {
                let reason = finish.reason();
                if self.form != Form::Completion {
                    let message = json!({"role": "assistant", "content": text});
                    return json!({"index": index, "message": message, "logprobs": self.logprobs(logprobs), "finish_reason": reason});
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

    /// A piece of a text.
    pub fn chunk(&self, index: usize, text: Option<String>, reason: Option<&str>, first: bool) -> Value {
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

    /// Log-probabilities in the form of this answer.
    pub fn logprobs(&self, logprobs: Value) -> Value {
        if self.form == Form::Completion { logprobs } else { logprobs::chat(&logprobs) }
    }

    /// What pieces are called.
    pub fn chunks(&self) -> &'static str {
        if self.form == Form::Completion { "text_completion" } else { "chat.completion.chunk" }
    }
}

/// What was filled in, one entry a gap.
pub fn filled(plan: &Plan, written: &Written) -> Vec<String> {
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
