//! Left-to-right text generation with a KV cache: how the base model generates, and used as baseline and judge.

use difflow_diffusion::keyed;

use std::sync::Arc;

use crate::cache::{Active, Cache};
use crate::decode::choose::{Ask, Choice, Draw};
use crate::decode::draw::Sampling;
use crate::decode::lanes::{Joined, Lanes, Manner, Reads};
use crate::decode::options::Score;
use crate::error::ModelError;
use crate::model::Model;

/// A text to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// At least one token, BOS first if the model wants one.
    pub tokens: Vec<u32>,
    /// Key of this sequence's random numbers.
    pub key: u64,
}

/// How far and how to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Most new tokens.
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    pub seed: u64,
    /// Tokens that end a text; the ending token is kept. Normally `config.eos_token_ids`.
    pub stop: Vec<u32>,
}

/// A continued text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Generated {
    /// The new tokens only.
    pub tokens: Vec<u32>,
    /// True when a stop token ended it, false when the length did.
    pub stopped: bool,
    /// Forwards that this sequence took part in.
    pub nfe: u32,
}

/// Texts on their way from left to right: each [`Writing::step`] is one forward and one token for all of them, and between forwards
/// texts join, are looked at, and leave. What a text becomes is decided by its own key and its own steps.
#[derive(Debug)]
pub struct Writing<'m> {
    model: &'m Model,
    options: Arc<Generation>,
    texts: Lanes<Text>,
    cache: Option<Cache>,
}

/// A token that a step wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub id: u64,
    pub token: u32,
}

/// A text as it stands.
#[derive(Debug)]
struct Text {
    key: u64,
    /// With the prompt.
    tokens: Vec<u32>,
    prompt: usize,
    /// Positions that have been read.
    read: usize,
    rotary_length: Option<usize>,
    options: Arc<Generation>,
    stopped: bool,
}

impl Reads for Text {
    fn manner(&self) -> Manner {
        Manner { together: 1, rotary_length: self.rotary_length }
    }

    /// The last token is read for what follows it.
    fn opening(&self) -> &[u32] {
        &self.tokens[..self.prompt - 1]
    }

    fn read(&self) -> &[u32] {
        &self.tokens[..self.read]
    }

    fn know(&mut self, count: usize) {
        self.read = count;
    }
}

impl Text {
    fn new_tokens(&self) -> usize {
        self.tokens.len() - self.prompt
    }

    fn ended(&self) -> bool {
        self.stopped || self.new_tokens() >= self.options.max_new_tokens
    }

    /// The most positions that are read of it.
    fn reach(&self) -> usize {
        self.prompt + self.options.max_new_tokens.saturating_sub(1)
    }

    /// Whether it goes on, in the forward of a rotary length.
    fn shares(&self, length: Option<usize>) -> bool {
        !self.ended() && self.rotary_length == length
    }

    fn generated(&self) -> Generated {
        let tokens = self.tokens[self.prompt..].to_vec();
        Generated { tokens, stopped: self.stopped, nfe: self.new_tokens() as u32 }
    }
}

impl<'m> Writing<'m> {
    /// Nothing yet, to be written in this way. Errors if an option means nothing.
    pub fn new(model: &'m Model, options: Generation) -> Result<Self, ModelError> {
        options.sampling.check()?;
        Ok(Self { model, options: Arc::new(options), texts: Lanes::default(), cache: None })
    }

    /// Takes a prompt; returns its id: the number of prompts that joined before. Errors if it does not fit the model.
    pub fn join(&mut self, prompt: Prompt) -> Result<u64, ModelError> {
        self.take(prompt, self.options.clone())
    }

    /// As [`Writing::join`], for a text that is written in a way of its own. Errors if it does not fit the model, or an option means
    /// nothing.
    pub fn join_with(&mut self, prompt: Prompt, options: Generation) -> Result<u64, ModelError> {
        options.sampling.check()?;
        self.take(prompt, Arc::new(options))
    }

    fn take(&mut self, prompt: Prompt, options: Arc<Generation>) -> Result<u64, ModelError> {
        self.model.check_prompt(&prompt.tokens, options.max_new_tokens)?;
        let Prompt { tokens, key } = prompt;
        let prompt = tokens.len();
        let mut text = Text { key, tokens, prompt, read: 0, rotary_length: None, options, stopped: false };
        text.rotary_length = self.model.rotary_length(text.reach());
        let Joined { id, lane, known, from } = self.texts.join(text);
        if let Some(cache) = &mut self.cache {
            cache.begin(lane, from, known)?;
        }
        Ok(id)
    }

    /// Positions that were not read since a text before had them, of all texts so far.
    pub fn known(&self) -> u64 {
        self.texts.known()
    }

    /// Bytes of keys and values that are kept.
    pub fn bytes(&self) -> usize {
        self.cache.as_ref().map_or(0, Cache::bytes)
    }

    /// Number of texts that have not ended.
    pub fn going(&self) -> usize {
        self.texts.iter().filter(|(_, _, text)| !text.ended()).count()
    }

    /// One forward and one token for every text that has not ended; returns the tokens in the order the texts joined, none when all
    /// have ended. Errors if the forward fails; the texts are then of no more use.
    pub fn step(&mut self) -> Result<Vec<Written>, ModelError> {
        let mut written = Vec::new();
        for length in self.texts.rotary_lengths(|text| !text.ended()) {
            let choices = self.choices(length)?;
            let going = self.texts.iter_mut().filter(|(_, _, text)| text.shares(length));
            for ((_, id, text), choice) in going.zip(choices) {
                text.read = text.tokens.len();
                text.tokens.push(choice.token);
                text.stopped = text.options.stop.contains(&choice.token);
                written.push(Written { id, token: choice.token });
            }
        }
        written.sort_by_key(|one| one.id);
        Ok(written)
    }

    /// The next token of each text with a rotary length, by lane.
    fn choices(&mut self, length: Option<usize>) -> Result<Vec<Choice>, ModelError> {
        let Self { model, texts, cache, .. } = self;
        let capacity = texts.iter().map(|(_, _, text)| text.reach()).max().unwrap_or(0);
        let cache = model.room(cache, (texts.count(), capacity))?;
        let mut active = Active { rotary_length: length, ..Active::default() };
        let (mut drawn, mut draws) = (Vec::new(), Vec::new());
        for (lane, _, text) in texts.iter().filter(|(_, _, text)| text.shares(length)) {
            let (step, last) = (text.new_tokens(), text.tokens.len() - 1);
            let new = text.read..text.tokens.len();
            let seen = |at: usize| 0..at + 1;
            active.add(lane, new.map(|at| (at, text.tokens[at])), seen, std::iter::once(last));
            let Generation { sampling, seed, .. } = &*text.options;
            let uniform = keyed::uniform(&mut keyed::rng(*seed, "generate", step as u64, text.key));
            let penalised = sampling.repetition_penalty != 1.0;
            drawn.push((uniform, if penalised { different(&text.tokens) } else { Vec::new() }));
            draws.push(Draw { sampling: *sampling, score: Score::Probability });
        }
        tch::no_grad(|| {
            let hidden = model.decoder.partial(&active, cache, model.arithmetic)?;
            let mut asks = Vec::with_capacity(drawn.len());
            for (row, (uniform, present)) in drawn.iter().enumerate() {
                asks.push(Ask { row, unguided: row, uniform: *uniform, present, before: None });
            }
            model.choose(&hidden, &asks, &draws, 0.0)
        })
    }

    /// Takes the texts that have ended, with their ids, in the order they joined.
    pub fn take_finished(&mut self) -> Vec<(u64, Generated)> {
        let ended = self.texts.take(|_, text| text.ended());
        ended.into_iter().map(|(id, text)| (id, text.generated())).collect()
    }

    /// Takes a text, ended or not, as it stands. `None` when there is none with this id.
    pub fn cancel(&mut self, id: u64) -> Option<Generated> {
        self.texts.take(|other, _| other == id).pop().map(|(_, text)| text.generated())
    }
}

impl Model {
    /// Continues prompts of equal or different lengths. The call ends when the last of them does.
    ///
    /// # Errors
    /// When a prompt or an option does not fit the model.
    pub fn generate(&self, prompts: &[Prompt], options: &Generation) -> Result<Vec<Generated>, ModelError> {
        let mut writing = Writing::new(self, options.clone())?;
        for prompt in prompts {
            writing.join(prompt.clone())?;
        }
        while writing.going() > 0 {
            writing.step()?;
        }
        Ok(writing.take_finished().into_iter().map(|(_, generated)| generated).collect())
    }

    pub(crate) fn check_prompt(&self, tokens: &[u32], more: usize) -> Result<(), ModelError> {
        if tokens.is_empty() {
            return Err(ModelError::input("prompt", "no tokens", "at least one (BOS, for text from nothing)"));
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            let wanted = format!("an id below the vocabulary's {}", self.config.vocab_size);
            return Err(ModelError::input("token of the prompt", id, wanted));
        }
        match self.longest() {
            Some(longest) if tokens.len() + more > longest + 1 => {
                let wanted = format!("at most {}, the model's learned positions", longest + 1);
                Err(ModelError::input("prompt and new tokens", tokens.len() + more, wanted))
            }
            _ => Ok(()),
        }
    }
}

/// The tokens of a text, each once.
pub(crate) fn different(text: &[u32]) -> Vec<u32> {
    let mut tokens = text.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}
