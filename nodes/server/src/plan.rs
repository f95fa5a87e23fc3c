//! From the fields of a request to the texts that are to be written.

use std::sync::Arc;

use difflow_inference::{Batch, DEFAULT_LENGTH, Decoding, GapLength, Piece, Template};
use difflow_text::{Lengths, Part, parse_gaps};

use crate::error::ApiError;
use crate::fields::{Completion, Fields, Logprobs, Prompts, Tokens, neutral, stops};
use crate::model::Loaded;
use crate::writer::Place;

/// The most of a gap whose length nobody says.
const GAP: usize = 16;
/// Texts of a prompt.
const MOST: usize = 128;
/// Texts of a request.
const TEXTS: usize = 2048;
/// Most probable tokens that are told.
pub const BEST: usize = 20;

/// What a request asks for.
pub struct Plan {
    pub model: Arc<Loaded>,
    /// In the order of the answer.
    pub choices: Vec<Choice>,
    pub decoding: Decoding,
    pub stops: Vec<String>,
    pub delivery: Delivery,
    /// Gives the prompt back before each text.
    pub echo: bool,
    /// Log-probabilities with so many of the most probable tokens.
    pub logprobs: Option<usize>,
    /// Prompts, not counted anew for each of their texts.
    pub prompt_tokens: usize,
    /// Fields that were accepted and do nothing.
    pub ignored: Vec<&'static str>,
    pub user: Option<String>,
}

/// How a request wants its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    pub stream: bool,
    pub canvas: bool,
    pub usage: bool,
}

/// A text that is to be written.
#[derive(Debug, Clone)]
pub struct Choice {
    pub text: Template,
    pub place: Place,
    pub prompt: Arc<Prompt>,
}

/// What is given of a text.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    /// As it was given.
    pub text: String,
    /// With the anchor, up to the first gap.
    pub tokens: Vec<u32>,
    /// Whether the request gave the anchor itself.
    pub anchored: bool,
}

/// How long texts may be.
struct Room<'m> {
    model: &'m Loaded,
    wanted: Option<usize>,
}

impl Room<'_> {
    /// Most new tokens behind `given` ones, as `wanted` or as many as the model ends by itself. Errors if the text would be too long.
    fn behind(&self, given: usize) -> Result<usize, ApiError> {
        let longest = self.model.longest;
        let least = self.wanted.unwrap_or(1);
        let total = given.saturating_add(least);
        if total > longest {
            return Err(ApiError { param: Some("max_tokens".into()), ..ApiError::too_long(total, longest) });
        }
        let own = || self.model.session.room_behind(given).unwrap_or(DEFAULT_LENGTH).min(longest - given);
        Ok(self.wanted.unwrap_or_else(own))
    }
}

/// Of `/v1/completions`. Errors with the field that is wrong.
pub fn completion(model: Arc<Loaded>, fields: Fields<Completion>) -> Result<Plan, ApiError> {
    let Fields { own, decoding, seed } = fields;
    let n = count(own.n)?;
    neutral("best_of", own.best_of.is_none_or(|best| best == 1 || best == n), "1")?;
    neutral("frequency_penalty", own.frequency_penalty.unwrap_or(0.0) == 0.0, "0")?;
    neutral("logit_bias", own.logit_bias.as_ref().is_none_or(serde_json::Map::is_empty), "{}")?;
    let stops = stops(own.stop)?;
    let room = Room { model: &model, wanted: own.max_tokens };
    let suffix = own.suffix.filter(|suffix| !suffix.is_empty() && !is_end(&model, suffix));
    let gaps = own.gaps.unwrap_or(true);
    let prompts =
        own.prompt.ok_or_else(|| ApiError::field("prompt", "`prompt` is missing: a text, texts or token ids"))?;
    let read = |prompt: &str| match &suffix {
        Some(suffix) => around(&model, prompt, suffix, own.gap.as_ref(), own.max_tokens),
        None if gaps && prompt.contains("[MASK") => filled(&model, prompt, &room),
        None => behind(&model, prompt, &room),
    };
    let ids = |ids: &[u32]| match &suffix {
        Some(_) => Err(ApiError::field("suffix", "with a suffix the prompt is a text, not token ids")),
        None => behind_ids(&model, ids, &room),
    };
    let number = match &prompts {
        Prompts::Text(_) | Prompts::Ids(_) => 1,
        Prompts::Texts(texts) => texts.len(),
        Prompts::Many(many) => many.len(),
    };
    if number * n > TEXTS {
        let message = format!("{} texts, prompts times n; allowed: {TEXTS}", number * n);
        return Err(ApiError::field("prompt", message));
    }
    let prompts: Vec<Choice> = match &prompts {
        Prompts::Text(text) => vec![read(text)?],
        Prompts::Texts(texts) => texts.iter().map(|text| read(text)).collect::<Result<_, _>>()?,
        Prompts::Ids(one) => vec![ids(one)?],
        Prompts::Many(many) => many.iter().map(|one| ids(one)).collect::<Result<_, _>>()?,
    };
    if prompts.is_empty() {
        return Err(ApiError::field("prompt", "`prompt` is empty: found no text, wanted one or several"));
    }
    if !stops.is_empty() && prompts.iter().any(|choice| choice.place == Place::Whole) {
        return Err(ApiError::field("stop", "a text with gaps in the middle has its end; allowed: none"));
    }
    let echo = own.echo.unwrap_or(false);
    let logprobs = match own.logprobs {
        None | Some(Logprobs::Wanted(false)) => None,
        Some(Logprobs::Wanted(true)) => Some(0),
        Some(Logprobs::Best(best)) => Some(best),
    };
    let stream = own.stream.unwrap_or(false);
    if let Some(best) = logprobs {
        neutral("logprobs", best <= BEST, "0 to 20")?;
        neutral("echo", !echo || model.reads_on, "false with logprobs: this model does not read from left to right")?;
        let ends = prompts.iter().all(|choice| matches!(choice.place, Place::From(_)));
        neutral("logprobs", ends, "none, with gaps or a suffix")?;
    }
    let usage = own.stream_options.unwrap_or_default().include_usage;
    let delivery = Delivery { stream, canvas: own.stream_canvas.unwrap_or(false), usage };
    neutral("stream_canvas", stream || !delivery.canvas, "false without stream")?;
    let ignored = if own.presence_penalty.unwrap_or(0.0) == 0.0 { vec![] } else { vec!["presence_penalty"] };
    let decoding = how(&model, &decoding, seed)?;
    let plan = Plan {
        prompt_tokens: 0,
        choices: Vec::new(),
        decoding,
        stops,
        delivery,
        echo,
        logprobs,
        ignored,
        user: own.user,
        model: model.clone(),
    };
    plan.with(&prompts, n)
}

impl Plan {
    /// With `n` texts for each prompt. The keys are those of `difflow sample`. Errors if one does not fit the model.
    pub fn with(mut self, prompts: &[Choice], n: usize) -> Result<Self, ApiError> {
        let mut check = Batch::new(&self.model.session);
        for (number, choice) in (0_u64..).zip(prompts) {
            let empty = choice.text.pieces.iter().all(|piece| !matches!(piece, Piece::Gap(gap) if gap.most > 0));
            if !empty {
                let text = check.join(&choice.text, &self.decoding).map_err(|e| self.model.error(&e))?;
                check.cancel(text);
            }
            self.prompt_tokens += given(&choice.text);
            for copy in 0..n as u64 {
                let text = Template { key: number << 32 | copy, ..choice.text.clone() };
                self.choices.push(Choice { text, ..choice.clone() });
            }
        }
        Ok(self)
    }
}

/// Texts of each prompt.
pub fn count(n: Option<usize>) -> Result<usize, ApiError> {
    let n = n.unwrap_or(1);
    neutral("n", (1..=MOST).contains(&n), "1 to 128")?;
    Ok(n)
}

/// How the texts are written: as asked for, else as the checkpoint says. Without a seed each request has another.
pub fn how(
    model: &Loaded,
    given: &serde_json::Map<String, serde_json::Value>,
    seed: Option<u64>,
) -> Result<Decoding, ApiError> {
    let mut decoding = model.session.decoding(given).map_err(|e| model.error(&e))?;
    decoding.seed = seed.unwrap_or_else(chance);
    model
        .session
        .decoder(decoding.decoder)
        .map_err(|e| ApiError { param: Some("decoder".into()), ..model.error(&e) })?;
    Ok(decoding)
}

/// A number that nobody knows before, small enough for every client's JSON.
fn chance() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() >> 32
}

/// Some editors mean nothing by it.
fn is_end(model: &Loaded, suffix: &str) -> bool {
    let words = model.session.words();
    suffix == "<|endoftext|>" || words.name(words.eos).is_some_and(|name| name == suffix)
}

/// Tokens that are given.
fn given(text: &Template) -> usize {
    text.pieces.iter().map(|piece| if let Piece::Tokens(tokens) = piece { tokens.len() } else { 0 }).sum()
}

/// A text that is continued.
pub fn continued(
    model: &Loaded,
    tokens: Vec<u32>,
    text: String,
    anchored: bool,
    most: usize,
) -> Result<Choice, ApiError> {
    let rows = model.session.config().vocab_size;
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= rows) {
        return Err(ApiError::field("prompt", format!("token id {id}; allowed: below {rows}")));
    }
    let place = Place::From(tokens.len());
    let gap = Piece::Gap(GapLength { least: most, most });
    let template = Template { pieces: vec![Piece::Tokens(tokens.clone()), gap], key: 0 };
    Ok(Choice { text: template, place, prompt: Arc::new(Prompt { text, tokens, anchored }) })
}

fn behind(model: &Loaded, prompt: &str, room: &Room) -> Result<Choice, ApiError> {
    let words = model.session.words();
    let mut tokens = vec![words.bos];
    tokens.extend(words.encode(prompt).map_err(|e| ApiError::field("prompt", e.to_string()))?);
    let most = room.behind(tokens.len())?;
    continued(model, tokens, prompt.to_owned(), false, most)
}

/// Token ids are what a client's own tokenizer made: the anchor is put before them where it is missing.
fn behind_ids(model: &Loaded, ids: &[u32], room: &Room) -> Result<Choice, ApiError> {
    let words = model.session.words();
    let anchored = ids.first() == Some(&words.bos);
    let tokens = if anchored { ids.to_vec() } else { [&[words.bos], ids].concat() };
    let most = room.behind(tokens.len())?;
    let rows = model.session.config().vocab_size;
    let text = if ids.iter().all(|&id| (id as usize) < rows) { words.decode(ids) } else { Ok(String::new()) };
    continued(model, tokens, text.map_err(|e| ApiError::field("prompt", e.to_string()))?, anchored, most)
}

fn filled(model: &Loaded, prompt: &str, room: &Room) -> Result<Choice, ApiError> {
    let parts = parse_gaps(prompt).map_err(|e| ApiError::field("prompt", e.to_string()))?;
    let most = |gap: &Part| if let Part::Gap(Some(lengths)) = gap { lengths.high } else { 0 };
    // Bounds are read before anything is made of them.
    if let Some(high) = parts.iter().map(most).find(|&most| most > model.longest) {
        return Err(ApiError { param: Some("prompt".into()), ..ApiError::too_long(high, model.longest) });
    }
    let gap = Lengths { low: 1, high: GAP };
    let end = |own: Option<usize>| {
        let most = room.wanted.or(own).unwrap_or(DEFAULT_LENGTH).clamp(1, model.longest);
        Lengths { low: most, high: most }
    };
    let pieces = model.session.pieces(&parts, gap, end).map_err(|e| ApiError::field("prompt", e.to_string()))?.pieces;
    choice_of(model, pieces, Place::Whole, prompt.to_owned())
}

/// A gap between two texts.
pub fn around(
    model: &Loaded,
    prefix: &str,
    suffix: &str,
    gap: Option<&Tokens>,
    most: Option<usize>,
) -> Result<Choice, ApiError> {
    let allowed = "allowed: a number from 1 on, or bounds such as `2..6`";
    let wrong = || ApiError::field("gap", allowed);
    let lengths = match gap {
        Some(&Tokens::Number(number)) if number > 0 => Lengths { low: number, high: number },
        Some(Tokens::Number(_)) => return Err(wrong()),
        Some(Tokens::Bounds(bounds)) => Lengths::parse(bounds).ok_or_else(wrong)?,
        None => Lengths { low: 1, high: most.unwrap_or(GAP).clamp(1, GAP) },
    };
    if lengths.high > model.longest {
        return Err(ApiError { param: Some("gap".into()), ..ApiError::too_long(lengths.high, model.longest) });
    }
    let words = model.session.words();
    let wrong = |e: difflow_text::TextError| ApiError::field("prompt", e.to_string());
    let mut left = vec![words.bos];
    left.extend(words.encode(prefix).map_err(wrong)?);
    let mut right = words.encode_inner(suffix).map_err(wrong)?;
    right.push(words.eos);
    let place = Place::Gap(left.len());
    let gap = Piece::Gap(GapLength { least: lengths.low, most: lengths.high });
    choice_of(model, vec![Piece::Tokens(left), gap, Piece::Tokens(right)], place, prefix.to_owned())
}

fn choice_of(model: &Loaded, pieces: Vec<Piece>, place: Place, text: String) -> Result<Choice, ApiError> {
    let longest: usize = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Tokens(tokens) => tokens.len(),
            Piece::Gap(gap) => gap.most,
        })
        .sum();
    if longest > model.longest {
        return Err(ApiError { param: Some("prompt".into()), ..ApiError::too_long(longest, model.longest) });
    }
    let tokens = match pieces.first() {
        Some(Piece::Tokens(tokens)) => tokens.clone(),
        _ => Vec::new(),
    };
    let behind_gap = pieces.windows(2).any(|two| matches!(two, [Piece::Gap(_), _]));
    if behind_gap && !model.session.fills_gaps() {
        let message = "this model does not see what stands behind a gap: it continues texts";
        return Err(ApiError::field(if place == Place::Whole { "prompt" } else { "suffix" }, message));
    }
    Ok(Choice { text: Template { pieces, key: 0 }, place, prompt: Arc::new(Prompt { text, tokens, anchored: false }) })
}
