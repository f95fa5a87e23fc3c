//! Asking a model that was finetuned on conversations as it was taught: its chat template, or prompt and response joined.

use std::path::Path;

use difflow_schema::run::bytes_sha256;
use difflow_schema::{Conversation, ExampleFacts};
use difflow_text::{ChatError, ChatTemplate, ChatTokens, ChatWords, Rendered};
use jiff::civil::Date;
use serde_json::Value;

use crate::error::InferenceError;
use crate::likelihood::Document;
use crate::session::Session;

/// How conversations become token ids for a model.
pub struct Chat {
    template: Option<ChatTemplate>,
    separator: String,
    words: ChatWords,
    eos: u32,
    /// Whether the model has learned where an answer ends.
    ends: bool,
    /// With end tokens behind an answer up to a multiple of so many.
    fill: Option<usize>,
}

/// An answer behind what it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Of which the prompt is given.
    pub document: Document,
    /// Tokens of the answer, with the one that ends it and without those that fill it up.
    pub answer: u64,
}

impl Session {
    /// Returns how the model was taught to be asked; `None` where it was trained on documents that are no conversations. Errors if its chat
    /// template is found neither beside it nor beside its base model.
    pub fn chat(&self) -> Result<Option<Chat>, InferenceError> {
        let Some(facts) = &self.facts().examples else { return Ok(None) };
        let words = self.words();
        let template = facts.template.as_ref().map(|sha256| self.chat_template(facts, sha256)).transpose()?;
        Ok(Some(Chat {
            template,
            separator: facts.separator.clone(),
            words: words.for_chat(),
            eos: words.eos,
            ends: facts.pad_policy != "ignore",
            fill: facts.fill_multiple,
        }))
    }

    /// As [`Session::chat`], and a model that was not finetuned here is asked by the template that it came with; `None` where it has none
    /// either. Errors as [`Session::chat`], or if that template cannot be read.
    pub fn chat_or_own_template(&self) -> Result<Option<Chat>, InferenceError> {
        if let Some(chat) = self.chat()? {
            return Ok(Some(chat));
        }
        let wrong = |e: ChatError| InferenceError::unfit("chat template", e, "one that can be read");
        let Some(mut template) = ChatTemplate::of_model(self.folder(), day(TRAINED_ON)?).map_err(wrong)? else {
            return Ok(None);
        };
        let words = self.words();
        template.name_ends(words.name(words.bos), words.name(words.eos));
        let (words, eos) = (words.for_chat(), words.eos);
        Ok(Some(Chat { template: Some(template), separator: String::new(), words, eos, ends: true, fill: None }))
    }

    /// The template with this sha256, from wherever it may be.
    fn chat_template(&self, facts: &ExampleFacts, sha256: &str) -> Result<ChatTemplate, InferenceError> {
        let wrong =
            |e: ChatError| InferenceError::unfit("chat template", e, "the one that the model was finetuned with");
        let today = day(facts.template_date.as_deref().unwrap_or(TRAINED_ON))?;
        let base = self.facts().base_model.as_deref().map(Path::new);
        let words = self.words();
        let mut found = Vec::new();
        // The trainer leaves the template beside the weights, though not all special tokens that another file may name.
        let own = self.folder().join("chat_template.jinja").is_file();
        for folder in std::iter::once(self.folder()).chain(base) {
            found.extend(ChatTemplate::of_model(folder, today).map_err(wrong)?);
            if let Some(file) = facts.template_file.as_ref().filter(|file| file.is_file()) {
                found.push(ChatTemplate::of_file(file, folder, today).map_err(wrong)?);
            }
        }
        found.iter_mut().for_each(|template| template.name_ends(words.name(words.bos), words.name(words.eos)));
        let same = |one: &ChatTemplate| bytes_sha256(one.identity().to_string().as_bytes()) == sha256;
        match found.iter().position(same) {
            Some(exact) => return Ok(found.swap_remove(exact)),
            None if own => return Ok(found.swap_remove(0)),
            None => {}
        }
        let places = base.map_or_else(String::new, |base| format!(" or {}", base.display()));
        let found = format!("none, or another one, in {}{places}", self.folder().display());
        Err(InferenceError::unfit(
            "chat template",
            found,
            format!("the one with sha256 {sha256}, with which it was finetuned"),
        ))
    }
}

/// TEMPLATE_DATE of runs that did not record it. An answer must not depend on the day it is given.
const TRAINED_ON: &str = "2024-07-26";

fn day(date: &str) -> Result<Date, InferenceError> {
    date.parse().map_err(|e| InferenceError::unfit("chat template", e, "a date in origin.json"))
}

impl Chat {
    /// Returns the token ids that ask for an answer to messages (objects with `role` and `content`, the last not the assistant's). Errors
    /// if the template fails, or without one there is more than one message.
    pub fn question(&self, messages: &[Value]) -> Result<Vec<u32>, InferenceError> {
        let text = match &self.template {
            Some(template) => template.render(messages, true).map_err(unrendered)?.text,
            None => format!("{}{}", self.only(messages)?, self.separator),
        };
        Ok(self.words.prompt(&text, self.template.is_some())?)
    }

    /// Returns the last answer of a conversation behind what it answers, as in training. Errors if the template fails, or without one there
    /// is more than one turn.
    pub fn exchange(&self, conversation: &Conversation) -> Result<Exchange, InferenceError> {
        let messages = conversation.messages();
        let answers = conversation.answers();
        let last = answers.last().copied().unwrap_or_default();
        let rendered = match &self.template {
            Some(template) => {
                template.examples(messages, &answers, difflow_text::Turns::Last).map_err(unrendered)?.remove(0)
            }
            None => {
                self.only(&messages[..last])?;
                Rendered::joined(conversation.contents(), &self.separator)
            }
        };
        let ChatTokens { mut tokens, answers, ended } = self.words.tokens(rendered, self.template.is_some())?;
        if self.ends && !ended {
            tokens.push(self.eos);
        }
        let given = answers.last().map_or(1, |answer| answer.start).max(1);
        let answer = (tokens.len() - given) as u64;
        tokens.resize(self.fill.map_or(tokens.len(), |multiple| tokens.len().next_multiple_of(multiple)), self.eos);
        Ok(Exchange { document: Document { tokens, given }, answer })
    }

    /// The content of the only message.
    fn only<'a>(&self, messages: &'a [Value]) -> Result<&'a str, InferenceError> {
        match messages {
            [message] => Ok(message["content"].as_str().unwrap_or_default()),
            several => {
                let found = format!("{} messages before the answer", several.len());
                Err(InferenceError::unfit(
                    "conversation",
                    found,
                    "one: the model was finetuned without a chat template",
                ))
            }
        }
    }
}

fn unrendered(e: ChatError) -> InferenceError {
    InferenceError::unfit("conversation", e, "one that the model's chat template can write")
}

#[cfg(test)]
#[path = "chat_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
