//! Texts that are written together and independently of each other: each joins when it comes, has its own options, is looked at after
//! every forward, and leaves when it is done or nobody wants it any more.

use std::collections::BTreeMap;
use std::ops::Range;

use difflow_model::{
    Caching, Canvas, DiffusionDecoding, Filling, Generation, Prompt, Reveal, Speculating, Speculation, Start, Template,
    Writing,
};

use crate::decoding::{Decoder, Decoding};
use crate::error::InferenceError;
use crate::session::Session;
use crate::writing::{Continuation, Written, continuation, needs_free_end};

/// A batch of texts on their way.
///
/// ```no_run
/// # use difflow_inference::*;
/// # fn write(session: &Session, first: &Template, second: &Template) -> Result<(), InferenceError> {
/// let mut batch = Batch::new(session);
/// batch.join(first, &Decoding::default())?;
/// batch.step()?;
/// batch.join(second, &Decoding { seed: 7, ..Decoding::default() })?;
/// while batch.going() > 0 {
///     for step in batch.step()? {
///         println!("text {}: {:?}", step.text, step.reveals);
///     }
///     for (text, written) in batch.take_finished() {
///         println!("text {text} took {} forwards", written.nfe);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Batch<'s> {
    session: &'s Session,
    /// Canvases, by what those of one forward have in common.
    fillings: Vec<Fillings<'s>>,
    writing: Option<Writing<'s>>,
    speculating: Option<Speculating<'s>>,
    texts: BTreeMap<u64, Text>,
    next: u64,
    /// What was known of the texts of fillings that gave way.
    replaced: u64,
}

/// Canvases with the same guidance, with or without a cache.
struct Fillings<'s> {
    guidance: f64,
    cached: bool,
    filling: Filling<'s>,
}

/// A text as the batch knows it.
struct Text {
    place: Place,
    canvas: Canvas,
    /// Forwards before it joined.
    read: u32,
    /// Of a text from left to right, its new tokens.
    tokens: usize,
}

/// Who writes a text, and its number there.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Filling(usize, u64),
    Writing(u64),
    Speculating(u64),
}

/// What a forward did to a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub text: u64,
    /// Where the text is being written: all of its canvas, or a block, or its end.
    pub open: Range<usize>,
    pub reveals: Vec<Reveal>,
}

/// How a text is written.
enum How {
    Canvas(DiffusionDecoding),
    Prompt(Generation),
    Start(Speculation),
}

impl<'s> Batch<'s> {
    /// Nothing yet.
    pub fn new(session: &'s Session) -> Self {
        let (fillings, texts) = (Vec::new(), BTreeMap::new());
        Self { session, fillings, writing: None, speculating: None, texts, next: 0, replaced: 0 }
    }

    /// Takes a text, to be written in its own way; returns its number. A gap whose length would have to be searched is as long as it may
    /// be: see [`Session::measured`]. Errors if text and options do not fit the model.
    pub fn join(&mut self, text: &Template, decoding: &Decoding) -> Result<u64, InferenceError> {
        let (how, canvas) = self.how(text, decoding)?;
        let model = self.session.model();
        let place = match how {
            How::Canvas(options) => {
                let (guidance, cached) = (options.guidance, options.cache != Caching::None);
                let known = self.fillings.iter().position(|one| one.guidance == guidance && one.cached == cached);
                let at = match known {
                    Some(at) => at,
                    None => {
                        let filling = Filling::new(model, options.clone())?;
                        let own = Fillings { guidance, cached, filling };
                        // One that nobody uses gives way, or they would grow with the kinds of texts that ever came.
                        match (0..self.fillings.len()).find(|&at| !self.fills(at)) {
                            Some(idle) => {
                                self.replaced += self.fillings[idle].filling.known();
                                self.fillings[idle] = own;
                                idle
                            }
                            None => {
                                self.fillings.push(own);
                                self.fillings.len() - 1
                            }
                        }
                    }
                };
                Place::Filling(at, self.fillings[at].filling.join_with(canvas.clone(), options)?)
            }
            How::Prompt(options) => {
                let writing = match &mut self.writing {
                    Some(writing) => writing,
                    none => none.insert(Writing::new(model, options.clone())?),
                };
                Place::Writing(writing.join_with(prompt(&canvas), options)?)
            }
            How::Start(options) => {
                let speculating = match &mut self.speculating {
                    Some(speculating) => speculating,
                    none => none.insert(Speculating::new(model, options.clone())?),
                };
                let most = canvas.masked.iter().filter(|masked| **masked).count();
                Place::Speculating(speculating.join_with(Start { prompt: prompt(&canvas), most }, options)?)
            }
        };
        let number = self.next;
        self.next += 1;
        self.texts.insert(number, Text { place, canvas, read: 0, tokens: 0 });
        Ok(number)
    }

    /// Whether canvases `at` have a text, done or not.
    fn fills(&self, at: usize) -> bool {
        self.texts.values().any(|text| matches!(text.place, Place::Filling(own, _) if own == at))
    }

    /// Who writes a text, as [`Session::write`] decides it, and the canvas that it is written on.
    fn how(&self, text: &Template, decoding: &Decoding) -> Result<(How, Canvas), InferenceError> {
        let session = self.session;
        let decoder = session.decoder(decoding.decoder)?;
        let decoding = Decoding { decoder, ..decoding.clone() };
        let free = continuation(text);
        let blocks = session.blocks();
        let free = match (free, decoder) {
            (None, Decoder::Ar) => return Err(needs_free_end()),
            (free, _) => free,
        };
        let of = |Continuation { tokens, length }| (Canvas::continuation(&tokens, length, text.key), length);
        Ok(match (free, blocks, decoder) {
            (Some(free), _, Decoder::Ar) => {
                let (canvas, length) = of(free);
                (How::Prompt(decoding.continuing(length, session.stops())), canvas)
            }
            (Some(free), Some(blocks), Decoder::Speculative) => {
                (How::Start(decoding.speculating(&blocks, session.stops())), of(free).0)
            }
            (Some(free), Some(blocks), _) => {
                let options = decoding.block_by_block(&blocks, session.stops(), session.canvas().is_some())?;
                (How::Canvas(options), of(free).0)
            }
            (None, Some(_), _) if !session.fills_gaps() => return Err(session.sees_no_right_side()),
            _ => {
                let options = decoding.filling(session.shift(), session.stops(), session.canvas().is_some());
                (How::Canvas(options), text.longest())
            }
        })
    }

    /// Number of texts that are not done.
    pub fn going(&self) -> usize {
        let filling: usize = self.fillings.iter().map(|one| one.filling.going()).sum();
        let writing = self.writing.as_ref().map_or(0, Writing::going);
        filling + writing + self.speculating.as_ref().map_or(0, Speculating::going)
    }

    /// One forward for every text that is not done; returns what it did to each. Errors if a forward fails; the batch is then of no more
    /// use.
    pub fn step(&mut self) -> Result<Vec<Step>, InferenceError> {
        let mut steps = Vec::new();
        let numbers: BTreeMap<(usize, u64), u64> =
            self.texts.iter().map(|(number, text)| (text.place.key(), *number)).collect();
        let number = |place: Place| numbers.get(&place.key()).copied();
        for (at, one) in self.fillings.iter_mut().enumerate() {
            for revealed in one.filling.step()? {
                let Some(text) = number(Place::Filling(at, revealed.id)) else { continue };
                steps.push(Step { text, open: revealed.open, reveals: revealed.reveals });
            }
        }
        let mut wrote = Vec::new();
        if let Some(writing) = &mut self.writing {
            wrote.extend(writing.step()?.into_iter().map(|one| (Place::Writing(one.id), vec![one.token])));
        }
        if let Some(speculating) = &mut self.speculating {
            wrote.extend(speculating.step()?.into_iter().map(|one| (Place::Speculating(one.id), one.tokens)));
        }
        for (place, tokens) in wrote {
            let Some(number) = number(place) else { continue };
            let Some(text) = self.texts.get_mut(&number) else { continue };
            let from = text.canvas.masked.iter().filter(|masked| !**masked).count() + text.tokens;
            text.tokens += tokens.len();
            text.read += 1;
            // How sure the model was is not said of these.
            let reveal = |(position, token): (usize, u32)| Reveal {
                step: text.read - 1,
                position: position as u32,
                token,
                probability: f32::NAN,
            };
            let open = from..from + tokens.len();
            steps.push(Step { text: number, open, reveals: (from..).zip(tokens).map(reveal).collect() });
        }
        steps.sort_by_key(|step| step.text);
        Ok(steps)
    }

    /// Takes the texts that are done, with their numbers.
    pub fn take_finished(&mut self) -> Vec<(u64, Written)> {
        let mut finished = Vec::new();
        for (at, one) in self.fillings.iter_mut().enumerate() {
            let filled = one.filling.take_finished().into_iter();
            finished.extend(filled.map(|(id, decoded)| (Place::Filling(at, id), Kind::Canvas(decoded))));
        }
        if let Some(writing) = &mut self.writing {
            let written = writing.take_finished().into_iter();
            finished.extend(written.map(|(id, generated)| (Place::Writing(id), Kind::Prompt(generated))));
        }
        if let Some(speculating) = &mut self.speculating {
            let written = speculating.take_finished().into_iter();
            finished.extend(written.map(|(id, speculated)| (Place::Speculating(id), Kind::Start(speculated))));
        }
        let mut all = Vec::with_capacity(finished.len());
        for (place, kind) in finished {
            let Some(number) = self.texts.iter().find(|(_, text)| text.place == place).map(|(number, _)| *number)
            else {
                continue;
            };
            let Some(text) = self.texts.remove(&number) else { continue };
            all.push((number, written(kind, text.canvas)));
        }
        all.sort_by_key(|(number, _)| *number);
        all
    }

    /// Tokens of what is given that were not read, since a text before began with them, of all texts so far. Of models whose text does not
    /// depend on what follows it.
    pub fn known(&self) -> u64 {
        let filling: u64 = self.fillings.iter().map(|one| one.filling.known()).sum();
        let writing = self.writing.as_ref().map_or(0, Writing::known);
        filling + writing + self.speculating.as_ref().map_or(0, Speculating::known) + self.replaced
    }

    /// Bytes of keys and values that are kept, for the texts on their way and for those that will begin like texts before them.
    pub fn bytes(&self) -> usize {
        let filling: usize = self.fillings.iter().map(|one| one.filling.bytes()).sum();
        let writing = self.writing.as_ref().map_or(0, Writing::bytes);
        filling + writing + self.speculating.as_ref().map_or(0, Speculating::bytes)
    }

    /// Lets a text go, done or not: it costs no further forward.
    pub fn cancel(&mut self, text: u64) {
        let Some(Text { place, .. }) = self.texts.remove(&text) else { return };
        match place {
            Place::Filling(at, id) => drop(self.fillings[at].filling.cancel(id)),
            Place::Writing(id) => drop(self.writing.as_mut().and_then(|writing| writing.cancel(id))),
            Place::Speculating(id) => drop(self.speculating.as_mut().and_then(|one| one.cancel(id))),
        }
    }
}

impl Place {
    /// In which order they are looked up.
    fn key(self) -> (usize, u64) {
        match self {
            Self::Writing(id) => (0, id),
            Self::Speculating(id) => (1, id),
            Self::Filling(at, id) => (2 + at, id),
        }
    }
}

/// What was made of a text, by who wrote it.
enum Kind {
    Canvas(difflow_model::Decoded),
    Prompt(difflow_model::Generated),
    Start(difflow_model::Speculated),
}

fn written(kind: Kind, canvas: Canvas) -> Written {
    let given = |canvas: Canvas| prompt(&canvas).tokens;
    match kind {
        Kind::Canvas(decoded) => Written::of(decoded, canvas),
        Kind::Prompt(generated) => Written::generated(given(canvas), generated),
        Kind::Start(speculated) => Written::speculated(given(canvas), speculated),
    }
}

/// What is given of a text with a free end.
fn prompt(canvas: &Canvas) -> Prompt {
    let given = canvas.masked.iter().take_while(|masked| !**masked).count();
    Prompt { tokens: canvas.tokens[..given].to_vec(), key: canvas.key }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
