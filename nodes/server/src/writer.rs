//! From revealed tokens to text: what is certain from its start on, up to a text that ends it.

use std::sync::Arc;

use difflow_inference::{Step, Written};
use difflow_text::TextError;

use crate::model::Loaded;

/// Which tokens of a canvas are a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Those from here on.
    From(usize),
    /// Those of the only gap, which begins here.
    Gap(usize),
    /// All of them but the anchor: there are gaps in the middle.
    Whole,
}

/// Why a text ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    End,
    /// This text stood in it.
    Stop(String),
    /// It was as long as it may be.
    Length,
}

impl Finish {
    /// As OpenAI says it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::End | Self::Stop(_) => "stop",
            Self::Length => "length",
        }
    }
}

/// A text that is being written.
pub struct Writer {
    model: Arc<Loaded>,
    place: Place,
    stops: Vec<String>,
    /// From the start of the place on, as far as they are known.
    tokens: Vec<Option<u32>>,
    /// How many of them are known from the first on, up to the end of the text.
    certain: usize,
    /// Their text.
    text: String,
    /// Bytes of it that were handed out.
    told: usize,
    finish: Option<Finish>,
}

impl Writer {
    pub fn new(model: Arc<Loaded>, place: Place, stops: Vec<String>) -> Self {
        let (tokens, text) = (Vec::new(), String::new());
        Self { model, place, stops, tokens, certain: 0, text, told: 0, finish: None }
    }

    /// Why the text has ended, if it has.
    pub fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }

    /// The text as it stands.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Tokens that are certain.
    pub fn certain(&self) -> usize {
        self.certain
    }

    /// Takes what a forward revealed. Errors if the tokenizer cannot decode it.
    pub fn step(&mut self, step: &Step) -> Result<(), TextError> {
        let (Place::From(start) | Place::Gap(start)) = self.place else { return Ok(()) };
        if self.finish.is_some() {
            return Ok(());
        }
        for reveal in &step.reveals {
            let Some(at) = (reveal.position as usize).checked_sub(start) else { continue };
            if at >= self.tokens.len() {
                self.tokens.resize(at + 1, None);
            }
            self.tokens[at] = Some(reveal.token);
        }
        let known = self.tokens[self.certain..].iter().take_while(|token| token.is_some()).count();
        if known > 0 {
            let tokens: Vec<u32> = self.tokens[..self.certain + known].iter().copied().flatten().collect();
            self.certain += known;
            self.read(&tokens, None)?;
        }
        Ok(())
    }

    /// Takes the text when it is done. Errors if the tokenizer cannot decode it.
    pub fn done(&mut self, written: &Written) -> Result<(), TextError> {
        if self.finish.is_some() {
            return Ok(());
        }
        let finish = if written.stopped { Finish::End } else { Finish::Length };
        match self.place {
            Place::From(start) => self.read(written.tokens.get(start..).unwrap_or_default(), Some(finish)),
            Place::Gap(_) => self.read(&written.filling(), Some(Finish::End)),
            Place::Whole => {
                let words = self.model.session.words();
                let inner = written.tokens.get(1..).unwrap_or_default();
                self.text = words.decode(inner.strip_suffix(&[words.eos]).unwrap_or(inner))?;
                self.finish = Some(finish);
                Ok(())
            }
        }
    }

    /// Makes text of the tokens that are certain. `last`: there are no more, for this reason.
    fn read(&mut self, tokens: &[u32], last: Option<Finish>) -> Result<(), TextError> {
        let (words, ends) = (self.model.session.words(), self.model.session.stops());
        let end = tokens.iter().position(|token| ends.contains(token));
        let body = &tokens[..end.unwrap_or(tokens.len())];
        // A text from nothing begins as the tokenizer says.
        self.text = if self.place == Place::From(1) { words.decode(body)? } else { words.decode_inner(body)? };
        let stop = self.stops.iter().filter_map(|stop| Some((self.text.find(stop.as_str())?, stop)));
        if let Some((at, stop)) = stop.min_by_key(|(at, stop)| (*at, stop.len())) {
            self.finish = Some(Finish::Stop(stop.clone()));
            self.text.truncate(at);
        } else if end.is_some() {
            self.finish = Some(Finish::End);
        } else {
            self.finish = last;
        }
        Ok(())
    }

    /// What can be handed out of the text and has not been: not what may become another letter or the start of a text that ends it.
    pub fn news(&mut self) -> Option<String> {
        let mut end = self.text.len();
        if self.finish.is_none() {
            if matches!(self.place, Place::Whole) {
                return None;
            }
            end = self.text.trim_end_matches('\u{FFFD}').len();
            for stop in &self.stops {
                let starts = (1..stop.len()).rev().filter(|&at| stop.is_char_boundary(at));
                let held = starts.filter(|&at| self.text[..end].ends_with(&stop[..at])).max().unwrap_or(0);
                end = end.min(self.text.len().min(end) - held);
            }
        }
        if end <= self.told || !self.text.is_char_boundary(self.told) {
            return None;
        }
        let news = self.text[self.told..end].to_owned();
        self.told = end;
        Some(news)
    }

    /// Tokens of the text.
    pub fn count(&self, written: &Written) -> usize {
        let ends = self.model.session.stops();
        let tokens = match self.place {
            Place::From(start) => written.tokens.get(start..).unwrap_or_default().to_vec(),
            Place::Gap(_) | Place::Whole => written.filling(),
        };
        tokens.iter().take_while(|token| !ends.contains(token)).count()
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
