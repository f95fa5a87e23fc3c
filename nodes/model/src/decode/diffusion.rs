//! Fills the masked positions of canvases with a diffusion model, one forward after another.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::cache::{Active, Cache};
use crate::config::Positions;
use crate::decode::canvas::{Canvas, Decoded, Reveal};
use crate::decode::choose::{Ask, Choice, Draw};
use crate::decode::lanes::{Joined, Lanes, Manner, Reads};
use crate::decode::options::{Caching, DiffusionDecoding};
use crate::decode::row::{Candidate, Row};
use crate::decode::watch::{Watch, Watched};
use crate::error::ModelError;
use crate::model::Model;
use crate::pattern::Context;

/// Canvases on their way: each [`Filling::step`] is one forward for all of them, and between forwards canvases join, are looked at,
/// and leave.
///
/// What a canvas becomes is decided by its own key and its own steps, never by what is filled beside it or by when it joined.
///
/// ```no_run
/// # use difflow_model::*;
/// # fn fill(model: &Model, first: Canvas, second: Canvas) -> Result<(), ModelError> {
/// let mut filling = Filling::new(model, DiffusionDecoding::default())?;
/// filling.join(first)?;
/// filling.step()?;
/// filling.join(second)?;
/// while filling.going() > 0 {
///     for step in filling.step()? {
///         println!("canvas {}: {:?}", step.id, step.reveals);
///     }
///     for (id, decoded) in filling.take_finished() {
///         println!("canvas {id} took {} forwards", decoded.nfe);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Filling<'m> {
    model: &'m Model,
    options: Arc<DiffusionDecoding>,
    mask: u32,
    rows: Lanes<Planned>,
    cache: Option<Cache>,
}

/// What a step revealed on a canvas.
#[derive(Debug, Clone, PartialEq)]
pub struct Revealed {
    pub id: u64,
    /// Where the canvas is being filled: all of it, or a block of block diffusion.
    pub open: Range<usize>,
    pub reveals: Vec<Reveal>,
}

/// A row, and what it asks the next forward for: nothing when it is full.
#[derive(Debug)]
struct Planned {
    row: Row,
    wanted: Vec<Candidate>,
    options: Arc<DiffusionDecoding>,
    rotary_length: Option<usize>,
}

impl Reads for Planned {
    fn manner(&self) -> Manner {
        let together = match self.options.context {
            Some(Context::Block) => self.options.block.unwrap_or(1),
            _ => 1,
        };
        Manner { together, rotary_length: self.rotary_length }
    }

    fn opening(&self) -> &[u32] {
        self.row.before_block(&self.options)
    }

    fn read(&self) -> &[u32] {
        self.row.read(&self.options)
    }

    fn know(&mut self, count: usize) {
        self.row.know(count);
    }
}

impl<'m> Filling<'m> {
    /// Nothing yet, to be filled in this way. Errors if the model has no mask token or an option means nothing.
    pub fn new(model: &'m Model, options: DiffusionDecoding) -> Result<Self, ModelError> {
        let mask = model.config.mask_token_id()?;
        options.check()?;
        Ok(Self { model, options: Arc::new(options), mask, rows: Lanes::default(), cache: None })
    }

    /// Takes a canvas; returns its id: the number of canvases that joined before. Errors if it does not fit the model.
    pub fn join(&mut self, canvas: Canvas) -> Result<u64, ModelError> {
        self.take(canvas, self.options.clone())
    }

    /// As [`Filling::join`], for a canvas that is filled in a way of its own. Guidance is that of the others, and it may have a
    /// cache only if they have one. Errors if that is not so, it does not fit the model, or an option means nothing.
    pub fn join_with(&mut self, canvas: Canvas, options: DiffusionDecoding) -> Result<u64, ModelError> {
        options.check()?;
        if options.guidance != self.options.guidance {
            let wanted = format!("{}, as the others have", self.options.guidance);
            return Err(ModelError::input("guidance", options.guidance, wanted));
        }
        if options.cache != Caching::None && self.options.cache == Caching::None {
            return Err(ModelError::input("cache", "one", "none, as the others"));
        }
        self.take(canvas, Arc::new(options))
    }

    fn take(&mut self, canvas: Canvas, options: Arc<DiffusionDecoding>) -> Result<u64, ModelError> {
        canvas.check(self.model.config.vocab_size, self.model.longest())?;
        let mut row = Row::new(canvas, self.mask);
        let wanted = row.plan(&options);
        let rotary_length = self.model.rotary_length(row.length());
        let Joined { id, lane, known, from } = self.rows.join(Planned { row, wanted, options, rotary_length });
        if let Some(cache) = &mut self.cache {
            let sides = sides(&self.options);
            (0..sides).try_for_each(|side| cache.begin(lane * sides + side, from * sides + side, known))?;
        }
        Ok(id)
    }

    /// Positions that were not read since a canvas before had them, of all canvases so far.
    pub fn known(&self) -> u64 {
        self.rows.known()
    }

    /// Bytes of keys and values that are kept.
    pub fn bytes(&self) -> usize {
        self.cache.as_ref().map_or(0, Cache::bytes)
    }

    /// Number of canvases that are not full yet.
    pub fn going(&self) -> usize {
        self.rows.iter().filter(|(_, _, planned)| !planned.wanted.is_empty()).count()
    }

    /// One forward for every canvas that is not full; returns what it revealed on each of them, nothing when all are full. Errors if
    /// the forward fails; the canvases are then of no more use.
    pub fn step(&mut self) -> Result<Vec<Revealed>, ModelError> {
        let mut revealed = Vec::new();
        for length in self.rows.rotary_lengths(|planned| !planned.wanted.is_empty()) {
            let choices = tch::no_grad(|| self.answer(length))?;
            let mut choices = choices.into_iter();
            for (_, id, planned) in self.rows.iter_mut() {
                if planned.wanted.is_empty() || planned.rotary_length != length {
                    continue;
                }
                let mine: Vec<Choice> = choices.by_ref().take(planned.wanted.len()).collect();
                let Planned { row, wanted, options, .. } = planned;
                let open = row.open(options);
                let reveals = row.settle(wanted, &mine, options).to_vec();
                revealed.push(Revealed { id, open, reveals });
                *wanted = row.plan(options);
            }
        }
        revealed.sort_by_key(|one| one.id);
        Ok(revealed)
    }

    /// A canvas that has not been taken; `None` for an id that is not here.
    pub fn canvas(&self, id: u64) -> Option<&Canvas> {
        self.rows.iter().find(|(_, other, _)| *other == id).map(|(_, _, planned)| planned.row.canvas())
    }

    /// Takes the canvases that are full, with their ids, in the order they joined.
    pub fn take_finished(&mut self) -> Vec<(u64, Decoded)> {
        let full = self.rows.take(|_, planned| planned.wanted.is_empty());
        full.into_iter().map(|(id, planned)| (id, planned.row.finish())).collect()
    }

    /// Takes a canvas, full or not, as it stands: what is not known is the mask token. `None` when there is none with this id.
    pub fn cancel(&mut self, id: u64) -> Option<Decoded> {
        self.rows.take(|other, _| other == id).pop().map(|(_, planned)| planned.row.finish())
    }

    /// One forward: a choice for every candidate, by lane.
    fn answer(&mut self, length: Option<usize>) -> Result<Vec<Choice>, ModelError> {
        let Self { model, options: common, rows, cache, .. } = self;
        let sides = sides(common);
        let (lanes, capacity) =
            (rows.count() * sides, rows.iter().map(|(_, _, planned)| planned.row.length()).max().unwrap_or(0));
        let mut active = Active { rotary_length: length, ..Active::default() };
        // Of each canvas its candidates, the first rows of its hidden states with and without what is given, and its tokens.
        let mut asked = Vec::new();
        for (lane, _, planned) in rows.iter_mut() {
            let Planned { row, wanted, options, rotary_length } = planned;
            let back = usize::from(options.shift);
            if wanted.is_empty() || *rotary_length != length {
                continue;
            }
            let positions = row.positions(options);
            let mut add = |lane: usize, given: bool| {
                let start = active.wanted.len();
                let tokens = positions.clone().map(|at| (at, row.token(at, given)));
                let places = wanted.iter().map(|candidate| candidate.position - back);
                active.add(lane, tokens, |at| 0..row.sees(at, options), places);
                start
            };
            let start = add(sides * lane, true);
            let unguided = if row.guided(options) { add(sides * lane + 1, false) } else { start };
            let present = if options.sampling.repetition_penalty == 1.0 { Vec::new() } else { row.present() };
            asked.push((&*row, &*wanted, &**options, start, unguided, present));
        }
        let hidden = match common.cache {
            Caching::None => model.decoder.whole(&active, capacity, model.arithmetic)?,
            _ => {
                let cache = model.room(cache, (lanes, capacity))?;
                model.decoder.partial(&active, cache, model.arithmetic)?
            }
        };
        let (mut asks, mut draws) = (Vec::new(), Vec::new());
        for (row, wanted, options, start, unguided, present) in &asked {
            asks.extend(wanted.iter().enumerate().map(|(at, candidate)| Ask {
                row: start + at,
                unguided: unguided + at,
                uniform: candidate.uniform,
                present,
                before: row.before(candidate.position, options),
            }));
            draws.resize(asks.len(), Draw { sampling: options.sampling, score: options.reveals.score() });
        }
        model.choose(&hidden, &asks, &draws, common.guidance)
    }
}

/// Lanes of the cache for each canvas.
fn sides(options: &DiffusionDecoding) -> usize {
    1 + usize::from(options.guidance != 0.0)
}

impl Model {
    /// Fills every masked position of the canvases; clean positions never change. Canvases may have different lengths. One forward
    /// a step serves all canvases that are not full yet.
    ///
    /// # Errors
    /// When a canvas or an option does not fit the model.
    pub fn decode(&self, canvases: &[Canvas], options: &DiffusionDecoding) -> Result<Vec<Decoded>, ModelError> {
        self.decode_watched(canvases, options, &mut |_, _| {})
    }

    /// As [`Model::decode`]; `watch` is told what each step reveals.
    ///
    /// # Errors
    /// As [`Model::decode`].
    pub fn decode_watched(
        &self,
        canvases: &[Canvas],
        options: &DiffusionDecoding,
        watch: &mut Watch,
    ) -> Result<Vec<Decoded>, ModelError> {
        let mut filling = Filling::new(self, options.clone())?;
        for canvas in canvases {
            filling.join(canvas.clone())?;
        }
        while filling.going() > 0 {
            for Revealed { id, open, reveals } in filling.step()? {
                watch(id as usize, &Watched::Revealed { canvas: &canvases[id as usize], open, reveals: &reveals });
            }
        }
        Ok(filling.take_finished().into_iter().map(|(_, decoded)| decoded).collect())
    }

    /// The length that the rotary embedding of a sequence goes by, where it goes by one (dynamic and long scaling). Sequences with
    /// different ones do not share a forward, or what one becomes would depend on the longest beside it.
    pub(crate) fn rotary_length(&self, length: usize) -> Option<usize> {
        match &self.config.positions {
            // Of several embeddings one at most goes by the length.
            Positions::Rotary(ropes) => ropes.iter().filter_map(|rope| rope.length_class(length)).max(),
            Positions::Learned => None,
        }
    }

    /// The places of texts that may share a forward, by the length that the rotary embedding of each goes by.
    pub(crate) fn rotary_groups(&self, lengths: impl Iterator<Item = usize>) -> Vec<(Option<usize>, Vec<usize>)> {
        let mut groups = BTreeMap::<Option<usize>, Vec<usize>>::new();
        for (place, length) in lengths.enumerate() {
            groups.entry(self.rotary_length(length)).or_default().push(place);
        }
        groups.into_iter().collect()
    }

    /// A cache with room for `size` = (lanes, positions of each), made or made larger as needed.
    pub(crate) fn room<'c>(
        &self,
        cache: &'c mut Option<Cache>,
        size: (usize, usize),
    ) -> Result<&'c mut Cache, ModelError> {
        match cache {
            Some(cache) => {
                cache.grow(size)?;
                Ok(cache)
            }
            None => Ok(cache.insert(self.decoder.cache(&self.config, size, self.arithmetic)?)),
        }
    }
}
