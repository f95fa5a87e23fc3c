//! A model's chat template: Jinja, with what transformers adds to it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use jiff::civil::Date;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, Value, escape_formatter};
use serde_json::{Map, Value as Json, json};

use super::generation::{self, marked, unmarked};
use super::json::tojson;
use super::{ChatError, Rendered, Turns};

/// The template's name in its environment.
const NAME: &str = "chat_template";

/// A chat template and the special tokens that it may name.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    special: Map<String, Json>,
    /// Whether it marks answers by itself.
    marks: bool,
}

impl ChatTemplate {
    /// The template of the model in `folder`: chat_template.jinja, or `chat_template` of tokenizer_config.json (where that is a list, the one
    /// named `default`). Returns `None` where the model has none. Errors if it is none that can be read. `today` is the date that
    /// `strftime_now` gives.
    pub fn of_model(folder: &Path, today: Date) -> Result<Option<Self>, ChatError> {
        let (file, config) = (folder.join("chat_template.jinja"), folder.join("tokenizer_config.json"));
        match fs::read_to_string(&file) {
            Ok(source) => return Self::new(&file.display().to_string(), source, folder, today).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(ChatError::File { path: file, reason: e.to_string() }),
        }
        let Some(own) = read_json(&config)?.and_then(|mut json| json.get_mut("chat_template").map(Json::take)) else {
            return Ok(None);
        };
        let named =
            |list: &Vec<Json>| list.iter().find(|one| one["name"] == "default").map(|one| one["template"].clone());
        let own = own.as_array().and_then(named).unwrap_or(own);
        match own.as_str() {
            Some(source) => Self::new(&format!("of {}", config.display()), source.to_owned(), folder, today).map(Some),
            None => Ok(None),
        }
    }

    /// The template in `file`, for the model in `folder`. Errors as [`ChatTemplate::of_model`].
    pub fn of_file(file: &Path, folder: &Path, today: Date) -> Result<Self, ChatError> {
        let source = fs::read_to_string(file);
        let source = source.map_err(|e| ChatError::File { path: file.to_owned(), reason: e.to_string() })?;
        Self::new(&file.display().to_string(), source, folder, today)
    }

    fn new(from: &str, source: String, folder: &Path, today: Date) -> Result<Self, ChatError> {
        let special = special_tokens(folder)?;
        let mut environment = environment(today);
        let (rewritten, marks) = generation::rewritten(&source);
        environment
            .add_template_owned(NAME, rewritten)
            .map_err(|e| ChatError::Syntax { from: from.to_owned(), reason: words(&e) })?;
        Ok(Self { environment, source, special, marks })
    }

    /// Gives the template the tokens that begin and end a document, where the model's own files name none. One that does both has one name,
    /// `eos_token`.
    pub fn name_ends(&mut self, bos: Option<String>, eos: Option<String>) {
        let bos = bos.filter(|bos| eos.as_ref() != Some(bos));
        for (name, token) in [("bos_token", bos), ("eos_token", eos)] {
            token.into_iter().for_each(|token| {
                self.special.entry(name).or_insert_with(|| token.into());
            });
        }
    }

    /// The template as it is written, and the special tokens that it may name: what its texts depend on.
    pub fn identity(&self) -> Json {
        json!([self.source, self.special])
    }

    /// The text of messages (objects with `role` and `content`) and the parts that the template itself marks as generated; with `asks`, it
    /// ends where the assistant begins. Errors if the template fails.
    pub fn render(&self, messages: &[Json], asks: bool) -> Result<Rendered, ChatError> {
        let mut context = Map::new();
        for (name, value) in [
            ("messages", json!(messages)),
            ("tools", Json::Null),
            ("documents", Json::Null),
            ("add_generation_prompt", asks.into()),
        ] {
            context.insert(name.to_owned(), value);
        }
        context.extend(self.special.clone());
        let template = self.environment.get_template(NAME).map_err(|e| ChatError::Render(words(&e)))?;
        let text = template.render(Value::from(Serde(context))).map_err(|e| ChatError::Render(words(&e)))?;
        let (text, answers) = unmarked(&text).map_err(ChatError::Render)?;
        Ok(Rendered { text, answers })
    }

    /// The texts that are learned from messages of which those at `answers` are the assistant's. Errors if the template fails, or does not
    /// say where an answer begins.
    pub fn examples(&self, messages: &[Json], answers: &[usize], turns: Turns) -> Result<Vec<Rendered>, ChatError> {
        match turns {
            Turns::Apart => answers.iter().map(|&answer| self.until(messages, answer)).collect(),
            Turns::Last => answers.last().into_iter().map(|&answer| self.until(messages, answer)).collect(),
            Turns::Together => self.whole(messages, answers).map(|whole| vec![whole]),
        }
    }

    /// The text that ends with message `answer`, which alone is learned.
    fn until(&self, messages: &[Json], answer: usize) -> Result<Rendered, ChatError> {
        let Rendered { text, answers } = self.render(&messages[..=answer], false)?;
        let span = match answers.last() {
            Some(span) => span.clone(),
            None if self.marks => return Err(ChatError::NoAnswer(answer)),
            None => {
                let prompt = self.render(&messages[..answer], true)?.text;
                if !text.starts_with(&prompt) {
                    return Err(ChatError::NoPrefix(answer));
                }
                prompt.len()..text.len()
            }
        };
        if span.is_empty() {
            return Err(ChatError::NoAnswer(answer));
        }
        Ok(Rendered { text, answers: vec![span] })
    }

    /// The text with all answers.
    fn whole(&self, messages: &[Json], answers: &[usize]) -> Result<Rendered, ChatError> {
        let mut whole = self.render(messages, false)?;
        if self.marks {
            whole.answers.retain(|span| !span.is_empty());
            return if whole.answers.is_empty() { Err(ChatError::NoAnswer(0)) } else { Ok(whole) };
        }
        for &answer in answers {
            let part = self.until(messages, answer)?;
            if !whole.text.starts_with(&part.text) {
                return Err(ChatError::NoPrefix(answer));
            }
            whole.answers.extend(part.answers);
        }
        Ok(whole)
    }
}

/// As transformers' `_compile_jinja_template`.
fn environment(today: Date) -> Environment<'static> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    if let Ok(syntax) = syntax.build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, state, value| match value.kind() {
        minijinja::value::ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
        minijinja::value::ValueKind::None => Ok(out.write_str("None")?),
        _ => escape_formatter(out, state, value),
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter(generation::FILTER, |text: &str| marked(text));
    environment.add_function("raise_exception", |message: &str| -> Result<String, Error> {
        Err(Error::new(minijinja::ErrorKind::InvalidOperation, message.to_owned()))
    });
    environment.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
        let wrong = |e: jiff::Error| Error::new(minijinja::ErrorKind::InvalidOperation, format!("strftime_now: {e}"));
        jiff::fmt::strtime::format(format, today.at(0, 0, 0, 0)).map_err(wrong)
    });
    environment
}

/// The special tokens by the names that templates have for them: `bos_token`, `eos_token`, …
fn special_tokens(folder: &Path) -> Result<Map<String, Json>, ChatError> {
    let mut special = Map::new();
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        for (name, value) in read_json(&folder.join(file))?.into_iter().flatten() {
            let token = value.get("content").unwrap_or(&value).as_str();
            if let Some(token) = token.filter(|_| name.ends_with("_token")) {
                special.insert(name, token.into());
            }
        }
    }
    Ok(special)
}

fn read_json(path: &Path) -> Result<Option<Map<String, Json>>, ChatError> {
    let wrong = |reason: String| ChatError::File { path: path.to_owned(), reason };
    match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        bytes => {
            let bytes = bytes.map_err(|e| wrong(e.to_string()))?;
            serde_json::from_slice(&bytes).map(Some).map_err(|e| wrong(e.to_string()))
        }
    }
}

/// An error with those behind it, on one line.
fn words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut behind = std::error::Error::source(error);
    while let Some(error) = behind {
        words += &format!(": {error}");
        behind = error.source();
    }
    words
}
