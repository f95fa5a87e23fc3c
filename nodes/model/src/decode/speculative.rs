//! Self-speculation: a model of block diffusion whose clean text is causal drafts some tokens at once with its
//! noised half, and checks them as the autoregressive model that its clean half is. What it writes is what that model
//! writes: greedily the same text (but for ties within rounding), else texts of the same distribution.
//!
//! One forward reads, behind the cached text, the last token, the drafts and a block of masks. The logits of the clean
//! tokens check the drafts and give one more token, in the place of the first mask; those of the masks are the drafts of
//! the next forward, if all of this one's were kept. Where one was replaced, the next forward drafts again from there.

use std::ops::Range;
use std::sync::Arc;

use difflow_diffusion::keyed;

use crate::cache::{Active, Cache};
use crate::decode::autoregressive::{Prompt, different};
use crate::decode::canvas::Reveal;
use crate::decode::draw::Sampling;
use crate::decode::lanes::{Joined, Lanes, Manner, Reads};
use crate::decode::verify::{Coins, Draft, Verdict};
use crate::decode::watch::{Watch, Watched};
use crate::error::ModelError;
use crate::model::Model;

/// A text to be continued, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub prompt: Prompt,
    /// Most new tokens. Each text has its own: where it may end decides what can be drafted, and so which of the texts is drawn.
    pub most: usize,
}

/// How to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Speculation {
    /// For drafts and checks alike.
    pub sampling: Sampling,
    pub seed: u64,
    /// Tokens that end a text; the ending token is kept.
    pub stop: Vec<u32>,
    /// True when the hidden state at j−1 predicts position j of the noised half, too.
    pub shift: bool,
    /// Positions that are noised in a forward. One fewer are drafts: the first gets its token from the clean half.
    pub block: usize,
}

impl Speculation {
    fn check(&self) -> Result<(), ModelError> {
        self.sampling.check()?;
        match self.block {
            0 => Err(ModelError::input("block", 0, "at least one position")),
            _ => Ok(()),
        }
    }
}

/// A continued text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Speculated {
    /// The new tokens only.
    pub tokens: Vec<u32>,
    /// True when a stop token ended it, false when the length did.
    pub stopped: bool,
    /// Forwards that this text took part in.
    pub nfe: u32,
    /// Drafts that were checked, and those of them that were kept.
    pub drafted: u32,
    pub accepted: u32,
    /// Which token came in which forward, by its probability in the clean half.
    pub history: Vec<Reveal>,
}

/// What a step did to a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub id: u64,
    /// The tokens that it wrote, of which the first `accepted` were drafts.
    pub tokens: Vec<u32>,
    pub accepted: usize,
    /// Drafts that fell away, from the first that was not kept.
    pub rejected: Vec<u32>,
    /// Drafts behind the text now, for the next step.
    pub drafts: Vec<u32>,
}

/// Texts on their way: each [`Speculating::step`] is one forward and one token or more for all of them, and between forwards texts join,
/// are looked at, and leave. What a text becomes is decided by its own key and its own steps.
#[derive(Debug)]
pub struct Speculating<'m> {
    model: &'m Model,
    options: Arc<Speculation>,
    mask: u32,
    texts: Lanes<Text>,
    cache: Option<Cache>,
}

/// A text as it stands.
#[derive(Debug)]
struct Text {
    key: u64,
    options: Arc<Speculation>,
    /// With the prompt.
    tokens: Vec<u32>,
    prompt: usize,
    /// Positions that it may have, and those of them that the model can read.
    most: usize,
    readable: usize,
    /// Positions that have been read as clean text: fewer than there are tokens.
    read: usize,
    drafts: Vec<Draft>,
    stopped: bool,
    nfe: u32,
    drafted: u32,
    accepted: u32,
    history: Vec<Reveal>,
    rotary_length: Option<usize>,
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

/// What is asked of a row of hidden states: the token of a position, or a draft for it.
struct Asked<'a> {
    sampling: Sampling,
    coins: Coins,
    present: Vec<u32>,
    role: Role<'a>,
}

enum Role<'a> {
    Check(Option<&'a Draft>),
    Draft,
}

/// The answer to either.
#[derive(Debug, Clone, Default)]
struct Told {
    verdict: Verdict,
    draft: Draft,
}

impl Text {
    fn ended(&self) -> bool {
        self.stopped || self.tokens.len() >= self.most
    }

    fn new_tokens(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// The positions that are noised in the next forward: none where they could give no draft.
    fn noised(&self) -> Range<usize> {
        let start = self.tokens.len() + self.drafts.len();
        let end = start.saturating_add(self.options.block).min(self.readable);
        if start + 1 < end { start..end } else { start..start }
    }

    /// Takes what a forward told of it: a verdict a draft and one more, then the new drafts.
    fn settle(&mut self, mut told: impl Iterator<Item = Told>) -> Checked {
        let options = self.options.clone();
        let stop = &options.stop;
        let step = self.nfe;
        self.nfe += 1;
        let drafts = std::mem::take(&mut self.drafts);
        let verdicts: Vec<Verdict> = told.by_ref().take(drafts.len() + 1).map(|told| told.verdict).collect();
        let (from, mut accepted) = (self.tokens.len(), 0);
        for verdict in verdicts {
            let Verdict { token, probability, .. } = verdict;
            self.history.push(Reveal { step, position: self.tokens.len() as u32, token, probability });
            self.tokens.push(token);
            self.stopped = stop.contains(&token);
            accepted += usize::from(verdict.accepted);
            if self.ended() || !verdict.accepted {
                break;
            }
        }
        // The last token is read with the next forward; a draft that was kept has been read.
        self.read = self.tokens.len() - 1;
        if accepted == drafts.len() && !self.ended() {
            self.drafts = told.map(|told| told.draft).collect();
            let end = self.drafts.iter().position(|draft| stop.contains(&draft.token));
            self.drafts.truncate(end.map_or(usize::MAX, |at| at + 1));
        }
        self.drafted += drafts.len() as u32;
        self.accepted += accepted as u32;
        let ids = |drafts: &[Draft]| drafts.iter().map(|draft| draft.token).collect();
        Checked {
            id: 0,
            tokens: self.tokens[from..].to_vec(),
            accepted,
            rejected: ids(&drafts[accepted..]),
            drafts: ids(&self.drafts),
        }
    }

    fn finish(self) -> Speculated {
        Speculated {
            tokens: self.new_tokens().to_vec(),
            stopped: self.stopped,
            nfe: self.nfe,
            drafted: self.drafted,
            accepted: self.accepted,
            history: self.history,
        }
    }
}

impl<'m> Speculating<'m> {
    /// Nothing yet, to be written in this way. Errors if the model has no mask token or an option means nothing.
    pub fn new(model: &'m Model, options: Speculation) -> Result<Self, ModelError> {
        let mask = model.config.mask_token_id()?;
        options.check()?;
        Ok(Self { model, options: Arc::new(options), mask, texts: Lanes::default(), cache: None })
    }

    /// Takes a prompt; returns its id: the number of prompts that joined before. Errors if it does not fit the model.
    pub fn join(&mut self, start: Start) -> Result<u64, ModelError> {
        self.take(start, self.options.clone())
    }

    /// As [`Speculating::join`], for a text that is written in a way of its own. Errors if it does not fit the model, or an option means
    /// nothing.
    pub fn join_with(&mut self, start: Start, options: Speculation) -> Result<u64, ModelError> {
        options.check()?;
        self.take(start, Arc::new(options))
    }

    fn take(&mut self, start: Start, options: Arc<Speculation>) -> Result<u64, ModelError> {
        let Start { prompt, most } = start;
        self.model.check_prompt(&prompt.tokens, most)?;
        let length = prompt.tokens.len();
        let most = length + most;
        let text = Text {
            key: prompt.key,
            options,
            tokens: prompt.tokens,
            prompt: length,
            most,
            readable: self.model.longest().map_or(most, |longest| longest.min(most)),
            read: 0,
            drafts: Vec::new(),
            stopped: false,
            nfe: 0,
            drafted: 0,
            accepted: 0,
            history: Vec::new(),
            rotary_length: self.model.rotary_length(most),
        };
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

    /// One forward for every text that has not ended; returns what it did in the order the texts joined, nothing when all have ended.
    /// Errors if the forward fails; the texts are then of no more use.
    pub fn step(&mut self) -> Result<Vec<Checked>, ModelError> {
        let mut checked = Vec::new();
        for length in self.texts.rotary_lengths(|text| !text.ended()) {
            let told = tch::no_grad(|| self.answer(length))?;
            let mut told = told.into_iter();
            for (_, id, text) in self.texts.iter_mut() {
                if text.ended() || text.rotary_length != length {
                    continue;
                }
                let rows = text.drafts.len() + 1 + text.noised().len().saturating_sub(1);
                let mine: Vec<Told> = told.by_ref().take(rows).collect();
                checked.push(Checked { id, ..text.settle(mine.into_iter()) });
            }
        }
        checked.sort_by_key(|one| one.id);
        Ok(checked)
    }

    /// One forward: of each text the verdicts and then the drafts, by lane.
    fn answer(&mut self, length: Option<usize>) -> Result<Vec<Told>, ModelError> {
        let Self { model, mask, texts, cache, .. } = self;
        let capacity = texts.iter().map(|(_, _, text)| text.readable).max().unwrap_or(0);
        let cache = model.room(cache, (texts.count(), capacity))?;
        let mut active = Active { rotary_length: length, ..Active::default() };
        let mut asked = Vec::new();
        for (lane, _, text) in texts.iter() {
            if text.ended() || text.rotary_length != length {
                continue;
            }
            let options = &text.options;
            let noised = text.noised();
            let known: Vec<u32> = text.tokens.iter().copied().chain(text.drafts.iter().map(|d| d.token)).collect();
            let tokens = (text.read..noised.end).map(|at| (at, known.get(at).copied().unwrap_or(*mask)));
            let seen = |at: usize| 0..if at < noised.start { at + 1 } else { noised.end };
            let back = usize::from(options.shift);
            let drafted = (noised.start + 1).min(noised.end)..noised.end;
            let places = (text.tokens.len() - 1..noised.start).chain(drafted.clone().map(|at| at - back));
            active.add(lane, tokens, seen, places);
            let mut ask = |position: usize, role| {
                let penalised = options.sampling.repetition_penalty != 1.0;
                let present = if penalised { different(&known[..position.min(known.len())]) } else { Vec::new() };
                asked.push(Asked {
                    sampling: options.sampling,
                    coins: coins(options.seed, position, text.key),
                    present,
                    role,
                });
            };
            let drafts = text.drafts.iter().map(Some).chain([None]);
            (text.tokens.len()..).zip(drafts).for_each(|(at, draft)| ask(at, Role::Check(draft)));
            drafted.for_each(|at| ask(at, Role::Draft));
        }
        let hidden = model.decoder.partial(&active, cache, model.arithmetic)?;
        model.over_rows(&hidden, asked.len(), |scratch, at, logits| {
            let Asked { sampling, coins, present, role } = &asked[at];
            match role {
                Role::Check(draft) => {
                    Told { verdict: sampling.verify(logits, present, *draft, *coins, scratch), ..Told::default() }
                }
                Role::Draft => Told { draft: sampling.draft(logits, present, *coins, scratch), ..Told::default() },
            }
        })
    }

    /// Takes the texts that have ended, with their ids, in the order they joined.
    pub fn take_finished(&mut self) -> Vec<(u64, Speculated)> {
        let ended = self.texts.take(|_, text| text.ended());
        ended.into_iter().map(|(id, text)| (id, text.finish())).collect()
    }

    /// Takes a text, ended or not, as it stands. `None` when there is none with this id.
    pub fn cancel(&mut self, id: u64) -> Option<Speculated> {
        self.texts.take(|other, _| other == id).pop().map(|(_, text)| text.finish())
    }
}

fn coins(seed: u64, position: usize, key: u64) -> Coins {
    let mut rng = keyed::rng(seed, "speculate", position as u64, key);
    let mut coin = || keyed::uniform(&mut rng);
    Coins { draft: coin(), accept: coin(), instead: coin() }
}

impl Model {
    /// Continues prompts of equal or different lengths, as the autoregressive model that the clean half is; `watch` is told what each step
    /// does. The call ends when the last of them does.
    ///
    /// # Errors
    /// When a prompt or an option does not fit the model.
    pub fn speculate(
        &self,
        starts: &[Start],
        options: &Speculation,
        watch: &mut Watch,
    ) -> Result<Vec<Speculated>, ModelError> {
        let mut speculating = Speculating::new(self, options.clone())?;
        for start in starts {
            speculating.join(start.clone())?;
        }
        while speculating.going() > 0 {
            for checked in speculating.step()? {
                let prompt = &starts[checked.id as usize].prompt.tokens;
                watch(checked.id as usize, &Watched::Checked { prompt, checked: &checked });
            }
        }
        Ok(speculating.take_finished().into_iter().map(|(_, speculated)| speculated).collect())
    }
}
