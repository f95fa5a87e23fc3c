//! Texts with gaps whose lengths may be unknown.
//!
//! A length is found by filling the gap at every length within its bounds and keeping the most probable filling: the largest
//! sum of the log-probabilities of the gap's tokens, each at the moment it was revealed (the chain rule, in the decoder's
//! order). A mean in its place would favour long fillings, most of whose tokens follow from their first ones.

use std::ops::Range;

use crate::decode::canvas::{Canvas, Decoded};
use crate::decode::diffusion::Watch;
use crate::decode::options::DiffusionDecoding;
use crate::error::ModelError;
use crate::model::Model;

/// Tokens of a gap: `least` equals `most` when the length is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapLength {
    pub least: usize,
    pub most: usize,
}

/// A part of a text with gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Tokens(Vec<u32>),
    Gap(GapLength),
}

/// A text with any number of gaps, its anchor (BOS or EOS) first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub pieces: Vec<Piece>,
    /// Key of this sequence's random numbers.
    pub key: u64,
}

/// A filled template.
#[derive(Debug, Clone, PartialEq)]
pub struct Infilled {
    /// The canvas that was chosen.
    pub canvas: Canvas,
    /// Tokens of each gap on it.
    pub lengths: Vec<usize>,
    /// How it was filled; `nfe` counts the forwards of every length that was tried.
    pub decoded: Decoded,
}

impl Template {
    fn gaps(&self) -> Vec<GapLength> {
        let gap = |piece: &Piece| match piece {
            Piece::Gap(gap) => Some(*gap),
            Piece::Tokens(_) => None,
        };
        self.pieces.iter().filter_map(gap).collect()
    }

    /// The canvas with gaps of these lengths, and where the gaps lie on it.
    fn canvas(&self, lengths: &[usize]) -> (Canvas, Vec<Range<usize>>) {
        let mut canvas = Canvas { tokens: Vec::new(), masked: Vec::new(), key: self.key };
        let (mut places, mut next) = (Vec::new(), lengths.iter());
        for piece in &self.pieces {
            let start = canvas.tokens.len();
            match piece {
                Piece::Tokens(tokens) => canvas.tokens.extend(tokens),
                Piece::Gap(_) => {
                    canvas.tokens.resize(start + next.next().copied().unwrap_or(0), 0);
                    places.push(start..canvas.tokens.len());
                }
            }
            canvas.masked.resize(canvas.tokens.len(), matches!(piece, Piece::Gap(_)));
        }
        (canvas, places)
    }
}

impl Model {
    /// Fills templates. Lengths that are not given are searched gap by gap from the left, the others meanwhile in the middle of
    /// their bounds; one at the very end is not searched but as long as it may be when a stop token can end it.
    ///
    /// # Errors
    /// When a template or an option does not fit the model.
    pub fn infill(
        &self,
        templates: &[Template],
        options: &DiffusionDecoding,
        watch: &mut Watch,
    ) -> Result<Vec<Infilled>, ModelError> {
        let mut lengths = Vec::with_capacity(templates.len());
        let mut tried = vec![0; templates.len()];
        for (template, tried) in templates.iter().zip(&mut tried) {
            lengths.push(self.lengths(template, options, tried)?);
        }
        let canvases: Vec<Canvas> =
            templates.iter().zip(&lengths).map(|(template, lengths)| template.canvas(lengths).0).collect();
        let decoded = self.decode_watched(&canvases, options, watch)?;
        let all = canvases.into_iter().zip(lengths).zip(decoded).zip(tried);
        Ok(all
            .map(|(((canvas, lengths), mut decoded), tried)| {
                decoded.nfe += tried;
                Infilled { canvas, lengths, decoded }
            })
            .collect())
    }

    /// The length of every gap; `tried` counts the forwards that finding them took.
    fn lengths(
        &self,
        template: &Template,
        options: &DiffusionDecoding,
        tried: &mut u32,
    ) -> Result<Vec<usize>, ModelError> {
        let gaps = template.gaps();
        if let Some(gap) = gaps.iter().find(|gap| gap.least > gap.most) {
            let found = format!("{}..{}", gap.least, gap.most);
            return Err(ModelError::input("length of a gap", found, "bounds in order"));
        }
        let open_end = !options.stop.is_empty() && matches!(template.pieces.last(), Some(Piece::Gap(_)));
        let mut lengths: Vec<usize> = gaps.iter().map(|gap| gap.least.midpoint(gap.most)).collect();
        for (number, gap) in gaps.iter().enumerate().filter(|(_, gap)| gap.least < gap.most) {
            if open_end && number + 1 == gaps.len() {
                lengths[number] = gap.most;
                continue;
            }
            let choices: Vec<usize> = (gap.least..=gap.most).collect();
            let canvases: Vec<(Canvas, Vec<Range<usize>>)> = choices
                .iter()
                .map(|&length| {
                    lengths[number] = length;
                    template.canvas(&lengths)
                })
                .collect();
            let only: Vec<Canvas> = canvases.iter().map(|(canvas, _)| canvas.clone()).collect();
            let decoded = self.decode(&only, options)?;
            *tried += decoded.iter().map(|one| one.nfe).sum::<u32>();
            let scores = decoded.iter().zip(&canvases).map(|(one, (_, places))| log_probability(one, &places[number]));
            let best = scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
            lengths[number] = best.map_or(gap.least, |(at, _)| choices[at]);
        }
        Ok(lengths)
    }
}

/// Log-probability of the tokens revealed at `places`; −∞ when there are none, so that a gap is filled if it may be.
fn log_probability(decoded: &Decoded, places: &Range<usize>) -> f64 {
    let inside = decoded.history.iter().filter(|reveal| places.contains(&(reveal.position as usize)));
    inside.map(|reveal| f64::from(reveal.probability).ln()).reduce(|a, b| a + b).unwrap_or(f64::NEG_INFINITY)
}
