//! Filling the masked positions of canvases with a diffusion model.

use crate::cache::{Active, Cache};
use crate::decode::canvas::{Canvas, Decoded, Reveal};
use crate::decode::choose::{Ask, Choice};
use crate::decode::options::{Caching, DiffusionDecoding, Reveals, Score};
use crate::decode::row::{Candidate, Row};
use crate::error::ModelError;
use crate::model::Model;

/// Is told the number of a canvas, the canvas, and what a step reveals on it.
pub type Watch<'a> = dyn FnMut(usize, &Canvas, &[Reveal]) + 'a;

impl Model {
    /// Fills every masked position of the canvases; clean positions never change. `alpha` is the noise schedule's α(t), used by
    /// [`Reveals::Random`]. Canvases may have different lengths. One forward a step serves all canvases that are not full yet.
    ///
    /// # Errors
    /// When a canvas or an option does not fit the model.
    pub fn decode(
        &self,
        canvases: &[Canvas],
        options: &DiffusionDecoding,
        alpha: &dyn Fn(f64) -> f64,
    ) -> Result<Vec<Decoded>, ModelError> {
        self.decode_watched(canvases, options, alpha, &mut |_, _, _| {})
    }

    /// As [`Model::decode`]; `watch` is told what each step reveals.
    ///
    /// # Errors
    /// As [`Model::decode`].
    pub fn decode_watched(
        &self,
        canvases: &[Canvas],
        options: &DiffusionDecoding,
        alpha: &dyn Fn(f64) -> f64,
        watch: &mut Watch,
    ) -> Result<Vec<Decoded>, ModelError> {
        let mask = self.config.mask_token_id()?;
        options.check()?;
        for canvas in canvases {
            canvas.check(self.config.vocab_size, self.longest())?;
        }
        let mut rows: Vec<Row> = canvases.iter().map(|canvas| Row::new(canvas, mask)).collect();
        let capacity = canvases.iter().map(|canvas| canvas.tokens.len()).max().unwrap_or(0);
        tch::no_grad(|| -> Result<(), ModelError> {
            let sides = 1 + usize::from(options.guidance != 0.0);
            let keep = options.cache != Caching::None;
            let mut cache = self.decoder.cache(&self.config, (rows.len() * sides, capacity), keep, self.arithmetic)?;
            loop {
                let wanted: Vec<Vec<Candidate>> = rows.iter_mut().map(|row| row.plan(options, alpha)).collect();
                if wanted.iter().all(Vec::is_empty) {
                    return Ok(());
                }
                let mut choices = self.answer(&mut rows, &wanted, options, &mut cache)?.into_iter();
                for (number, (row, wanted)) in rows.iter_mut().zip(&wanted).enumerate() {
                    let mine: Vec<Choice> = choices.by_ref().take(wanted.len()).collect();
                    if !mine.is_empty() {
                        watch(number, &canvases[number], row.settle(wanted, &mine, options));
                    }
                }
            }
        })?;
        Ok(rows.into_iter().map(Row::finish).collect())
    }

    /// One forward: a choice for every candidate, in order.
    fn answer(
        &self,
        rows: &mut [Row],
        wanted: &[Vec<Candidate>],
        options: &DiffusionDecoding,
        cache: &mut Cache,
    ) -> Result<Vec<Choice>, ModelError> {
        let back = usize::from(options.shift);
        let sides = cache.shape.lanes / rows.len().max(1);
        let mut active = Active::default();
        let mut present = vec![Vec::new(); rows.len()];
        // First row of hidden states of each canvas, and that of its unguided side.
        let mut starts = vec![(0, 0); rows.len()];
        for (number, row) in rows.iter_mut().enumerate().filter(|(number, _)| !wanted[*number].is_empty()) {
            let positions = row.positions(options);
            let mut add = |lane: usize, given: bool| {
                let start = active.wanted.len();
                let tokens = positions.clone().map(|at| (at, row.token(at, given)));
                let asked = wanted[number].iter().map(|candidate| candidate.position - back);
                active.add(lane, tokens, |_| 0..row.end(), asked);
                start
            };
            let start = add(sides * number, true);
            starts[number] = (start, if row.guided(options) { add(sides * number + 1, false) } else { start });
            if options.sampling.repetition_penalty != 1.0 {
                present[number] = row.present();
            }
        }
        let hidden = self.decoder.partial(&active, cache, self.arithmetic)?;
        let mut asks = Vec::new();
        for (number, wanted) in wanted.iter().enumerate() {
            let (guided, unguided) = starts[number];
            asks.extend(wanted.iter().enumerate().map(|(at, candidate)| Ask {
                row: guided + at,
                unguided: unguided + at,
                uniform: candidate.uniform,
                present: &present[number],
            }));
        }
        let score = match options.reveals {
            Reveals::Confidence { score, .. } | Reveals::Threshold { score, .. } => score,
            Reveals::Random { .. } | Reveals::FirstHitting => Score::Probability,
        };
        self.choose(&hidden, &asks, (&options.sampling, score, options.guidance))
    }
}
