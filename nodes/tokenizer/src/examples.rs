//! From conversations to token ids, of which only those of answers are learned.

use std::ops::Range;
use std::path::{Path, PathBuf};

use difflow_node_kit::problem::Kind;
use difflow_node_kit::{Problem, Problems};
use difflow_schema::run::bytes_sha256;
use difflow_schema::{Conversation, ExampleFacts};
use difflow_text::{ChatError, ChatTemplate, ChatTokens, Rendered, TextError, Turns};
use eyre::{Result, eyre};
use serde_json::{Value, json};

use crate::config::{Config, NO_TEMPLATE, PadPolicy, TurnsKey};
use crate::packing::LongDocuments;
use crate::words::Words;

/// A text that ends with an answer, as token ids, without what PAD_POLICY puts behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Places of the tokens that are learned, in order; the last ends the tokens.
    pub answers: Vec<Range<usize>>,
    /// Whether the template itself ended the answer with the end token.
    pub ended: bool,
    /// Whether the prompt was cut.
    pub cut: bool,
}

/// How conversations become examples.
pub struct Examples {
    template: Option<ChatTemplate>,
    template_file: Option<PathBuf>,
    date: String,
    separator: String,
    turns: TurnsKey,
    pad: Pad,
    several_a_row: bool,
    long: LongDocuments,
    length: usize,
    policy: PadPolicy,
}

/// What is put behind an answer.
#[derive(Debug, Clone, Copy)]
struct Pad {
    eos: u32,
    bos: u32,
    /// Tokens of which a filled example has a multiple.
    multiple: usize,
}

impl Examples {
    /// As the keys say, with the chat template of CHAT_TEMPLATE or BASE_MODEL.
    ///
    /// # Errors
    /// What is wrong with the keys or the template.
    pub fn open(config: &Config, words: &Words) -> Result<Self, Problems> {
        let mut problems = config.of_conversations();
        let template = template(config).map_err(|problem| problems.push(problem)).ok().flatten();
        Problems(problems).into_result()?;
        let template = template.map(|mut template| {
            template.name_ends(words.name(words.special.bos), words.name(words.special.eos));
            template
        });
        let template_file = config.chat_template_file().map(std::path::absolute).transpose();
        let template_file =
            template_file.map_err(|e| Problem::new("CHAT_TEMPLATE", &config.chat_template, e.to_string()))?;
        let (eos, bos) = (words.special.eos, words.special.bos);
        let pad = Pad { eos, bos, multiple: config.fill_multiple.unwrap_or(config.sequence_length) };
        Ok(Self {
            template,
            template_file,
            date: config.template_date.clone(),
            separator: config.separator.clone(),
            turns: config.turns,
            pad,
            several_a_row: config.several_conversations_a_row(),
            long: config.long_documents,
            length: config.sequence_length,
            policy: config.pad_policy,
        })
    }

    /// What runs are compared by, and what a user of the model must do likewise.
    pub fn facts(&self) -> ExampleFacts {
        let name = |value: Value| value.as_str().unwrap_or_default().to_owned();
        let date = self.template.is_some().then(|| self.date.clone());
        ExampleFacts {
            template: self.template.as_ref().map(|own| bytes_sha256(own.identity().to_string().as_bytes())),
            template_file: self.template_file.clone(),
            template_date: date,
            separator: if self.template.is_none() { self.separator.clone() } else { String::new() },
            pad_policy: name(json!(self.policy)),
            turns: name(json!(self.turns)),
            several_a_row: self.several_a_row,
            fill_multiple: (self.policy == PadPolicy::EosFill).then_some(self.pad.multiple),
        }
    }

    /// What the tokens depend on besides documents, tokenizer and packing.
    pub fn identity(&self) -> Value {
        json!(ExampleFacts { template_file: None, ..self.facts() })
    }

    /// The examples of conversation `doc`.
    ///
    /// # Errors
    /// When the template fails, an answer is empty, or one is longer than a row.
    pub fn of(&self, doc: u64, messages: &str, words: &Words) -> Result<Vec<Example>> {
        let conversation = Conversation::parse(messages).map_err(|e| eyre!("document {doc} of the corpus: {e}"))?;
        let mut examples = Vec::new();
        for rendered in self.rendered(doc, &conversation)? {
            let example = self.tokens(doc, rendered, words)?;
            examples.push(self.fitted(doc, example)?);
        }
        Ok(examples)
    }

    fn rendered(&self, doc: u64, conversation: &Conversation) -> Result<Vec<Rendered>, Problems> {
        let answers = conversation.answers();
        let Some(template) = &self.template else {
            if answers.len() > 1 {
                let found = format!("document {doc} of the corpus (counted from 0), with {} answers", answers.len());
                let allowed = "several turns need a chat template: wanted: CHAT_TEMPLATE, a Jinja file, or a BASE_MODEL with a template of its own";
                return Err(Problem::new("CHAT_TEMPLATE", found, allowed).into());
            }
            return Ok(vec![Rendered::joined(conversation.contents(), &self.separator)]);
        };
        let turns = match self.turns {
            TurnsKey::Apart => Turns::Apart,
            TurnsKey::Together => Turns::Together,
            TurnsKey::Last => Turns::Last,
        };
        template.examples(conversation.messages(), &answers, turns).map_err(|e| {
            let found = format!("document {doc} of the corpus (counted from 0)");
            Problem::new("CHAT_TEMPLATE", found, e.to_string()).into()
        })
    }

    /// The token ids of a text up to the end of its last answer; what stands behind it, nobody will have read before.
    fn tokens(&self, doc: u64, rendered: Rendered, words: &Words) -> Result<Example> {
        let ChatTokens { tokens, answers, ended } = match words.chat.tokens(rendered, self.template.is_some()) {
            Err(e @ TextError::NoToken) => {
                let found = format!("document {doc} of the corpus (counted from 0)");
                let allowed = format!("{e}; leave such documents out with SQL");
                return Err(Problems::from(Problem::new("TOKENIZER", found, allowed)).into());
            }
            tokens => tokens?,
        };
        Ok(Example { tokens, answers, ended, cut: false })
    }

    /// The example with its prompt cut from the left where it is longer than a row.
    fn fitted(&self, doc: u64, mut example: Example) -> Result<Example, Problems> {
        let end = usize::from(self.policy != PadPolicy::Ignore && !example.ended);
        let Some(excess) = (example.tokens.len() + end).checked_sub(self.length).filter(|&excess| excess > 0) else {
            return Ok(example);
        };
        let wanted = example.tokens.len() + end;
        let first = example.answers.first().map_or(0, |answer| answer.start);
        // The token that begins a document stays; so does one token for the first answer to be predicted from.
        let kept = usize::from(example.tokens.first() == Some(&self.pad.bos)).max(1).min(first);
        let (long, what) = (self.long == LongDocuments::Refuse, "SEQUENCE_LENGTH");
        if first - kept < excess {
            let answer = wanted - first;
            let allowed = format!(
                "document {doc} of the corpus (counted from 0) has an answer of {answer} tokens with what ends it, and needs {kept} before it; an \
                 answer is never cut: give SEQUENCE_LENGTH at least {}, or leave such documents out with SQL",
                answer + kept
            );
            return Err(Problem::new(what, self.length, allowed).into());
        }
        if long {
            let allowed = format!(
                "document {doc} of the corpus (counted from 0) has {wanted} tokens with its prompt; give SEQUENCE_LENGTH at least that, leave such \
                 documents out with SQL, or set LONG_DOCUMENTS: cut, which cuts the prompt from the left"
            );
            return Err(Problem::new(what, self.length, allowed).into());
        }
        example.tokens.drain(kept..kept + excess);
        example.answers.iter_mut().for_each(|answer| *answer = answer.start - excess..answer.end - excess);
        example.cut = true;
        Ok(example)
    }

    /// Puts behind the answer what PAD_POLICY says; it belongs to the answer. `tail` more end tokens are those of an open end.
    pub fn finish(&self, example: &mut Example, tail: usize) {
        let own = usize::from(!example.ended);
        let length = example.tokens.len();
        let until = match self.policy {
            PadPolicy::Ignore => length,
            PadPolicy::EosOnce => length + own + tail,
            PadPolicy::EosFill => (length + own).next_multiple_of(self.pad.multiple).min(self.length),
        };
        example.tokens.resize(until, self.pad.eos);
        if let Some(last) = example.answers.last_mut() {
            last.end = until;
        }
    }

    /// Tokens of an example with the end token of its own.
    pub fn ended_length(&self, example: &Example) -> usize {
        example.tokens.len() + usize::from(self.policy != PadPolicy::Ignore && !example.ended)
    }

    /// Whether an open end may follow.
    pub fn takes_tail(&self) -> bool {
        self.policy == PadPolicy::EosOnce
    }
}

/// The template that CHAT_TEMPLATE or the model names.
fn template(config: &Config) -> Result<Option<ChatTemplate>, Problem> {
    let today = config.template_date.parse().map_err(|e| {
        Problem::new("TEMPLATE_DATE", &config.template_date, format!("{e}; wanted: a date such as 2024-07-26"))
    })?;
    let wrong = |e: ChatError| {
        let found = if config.chat_template.is_empty() { &config.base_model } else { &config.chat_template };
        let allowed = format!("{e}; wanted: a chat template that can be read, `none`, or a Jinja file of your own");
        Problem::new("CHAT_TEMPLATE", found, allowed).of_kind(Kind::File)
    };
    let file = config.tokenizer_file();
    let beside = file.parent().unwrap_or(Path::new("."));
    if let Some(file) = config.chat_template_file() {
        let special =
            if beside.join("tokenizer_config.json").exists() { beside } else { Path::new(&config.base_model) };
        return ChatTemplate::of_file(&file, special, today).map(Some).map_err(wrong);
    }
    if config.chat_template == NO_TEMPLATE {
        return Ok(None);
    }
    match ChatTemplate::of_model(beside, today).map_err(wrong)? {
        None => ChatTemplate::of_model(Path::new(&config.base_model), today).map_err(wrong),
        own => Ok(own),
    }
}

#[cfg(test)]
#[path = "examples_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
