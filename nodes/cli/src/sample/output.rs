//! Texts on stdout: for people, or as one JSON object each.

use difflow_inference::{Reveal, Written};
use difflow_text::{TextError, Words};
use eyre::Result;
use serde::Serialize;

use crate::sample::arguments::Arguments;
use crate::sample::tasks::Task;

pub struct Printer<'a> {
    words: &'a Words,
    json: bool,
    history: bool,
}

/// One text as JSON.
#[derive(Serialize)]
struct Record<'a> {
    /// Number of the prompt, and of the text of this prompt.
    prompt_number: u64,
    number: u64,
    prompt: &'a str,
    /// The whole text, prompt included.
    text: String,
    /// What was filled in, one entry a gap.
    filled: Vec<String>,
    /// All token ids, the anchor first.
    ids: &'a [u32],
    /// Forwards that this text took part in.
    nfe: u32,
    /// Seconds of its batch over the batch's texts.
    seconds: f64,
    /// Whether an end-of-text token ended it.
    stopped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<Step>>,
}

/// One position becoming known.
#[derive(Serialize)]
struct Step {
    step: u32,
    position: u32,
    token: u32,
    text: String,
    probability: f32,
}

impl<'a> Printer<'a> {
    pub fn new(arguments: &Arguments, words: &'a Words) -> Self {
        Self { words, json: arguments.json, history: arguments.history }
    }

    /// Prints one text; `many` says that others stand beside it.
    ///
    /// # Errors
    /// When the tokenizer cannot write the tokens.
    pub fn print(&self, task: &Task, written: &Written, many: bool) -> Result<()> {
        let text = text(self.words, &written.tokens)?;
        if !self.json {
            if many {
                println!(
                    "--- {}.{}: {} forwards, {:.2} s",
                    task.prompt_number, task.number, written.nfe, written.seconds
                );
            }
            println!("{text}");
            return Ok(());
        }
        let history = || written.history.iter().map(|reveal| self.step(reveal)).collect::<Result<_, TextError>>();
        let record = Record {
            prompt_number: task.prompt_number,
            number: task.number,
            prompt: &task.prompt,
            text,
            filled: self.filled(written)?,
            ids: &written.tokens,
            nfe: written.nfe,
            seconds: written.seconds,
            stopped: written.stopped,
            history: self.history.then(history).transpose()?,
        };
        println!("{}", serde_json::to_string(&record)?);
        Ok(())
    }

    fn step(&self, reveal: &Reveal) -> Result<Step, TextError> {
        let Reveal { step, position, token, probability } = *reveal;
        Ok(Step { step, position, token, text: self.words.decode_inner(&[token])?, probability })
    }

    fn filled(&self, written: &Written) -> Result<Vec<String>, TextError> {
        let tokens: Vec<(u32, bool)> = written.tokens.iter().copied().zip(written.filled.iter().copied()).collect();
        let gaps = tokens.chunk_by(|a, b| a.1 == b.1).filter(|part| part[0].1);
        gaps.map(|gap| {
            let ids: Vec<u32> = gap.iter().map(|(token, _)| *token).filter(|token| *token != self.words.eos).collect();
            self.words.decode_inner(&ids)
        })
        .collect()
    }
}

/// The text of a sequence: without its anchor, and without an end-of-text token at its end.
fn text(words: &Words, tokens: &[u32]) -> Result<String, TextError> {
    let inner = tokens.get(1..).unwrap_or_default();
    words.decode(inner.strip_suffix(&[words.eos]).unwrap_or(inner))
}
