//! Texts with gaps, possibly of unknown length.

use std::ops::Range;

use crate::decode::canvas::{Canvas, Decoded};
use crate::decode::gap_length::{Candidate, Search};
use crate::decode::options::DiffusionDecoding;
use crate::decode::watch::Watch;
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
    /// How it was filled; `nfe` counts the canvases that were read to find the lengths as well.
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

    /// Whether a gap is one whose length is searched. With `stop`, one at the very end is not: a stop token ends it.
    fn searched(&self, gaps: &[GapLength], number: usize, stop: bool) -> bool {
        let open = stop && number + 1 == gaps.len() && matches!(self.pieces.last(), Some(Piece::Gap(_)));
        gaps[number].least < gaps[number].most && !open
    }
}

impl Model {
    /// Fills templates. Lengths that are not given are searched gap by gap from the left, the others meanwhile in the middle of
    /// their bounds; how a length is chosen is said in docs/SAMPLING.md. One at the very end is not searched but as long as it may
    /// be when a stop token can end it.
    ///
    /// # Errors
    /// When a template or an option does not fit the model.
    pub fn infill(
        &self,
        templates: &[Template],
        options: &DiffusionDecoding,
        watch: &mut Watch,
    ) -> Result<Vec<Infilled>, ModelError> {
        let gaps: Vec<Vec<GapLength>> = templates.iter().map(Template::gaps).collect();
        if let Some(gap) = gaps.iter().flatten().find(|gap| gap.least > gap.most) {
            let found = format!("{}..{}", gap.least, gap.most);
            return Err(ModelError::input("length of a gap", found, "bounds in order"));
        }
        let stop = !options.stop.is_empty();
        let mut lengths: Vec<Vec<usize>> = Vec::with_capacity(templates.len());
        for (template, gaps) in templates.iter().zip(&gaps) {
            let start = |number: usize| {
                let GapLength { least, most } = gaps[number];
                if template.searched(gaps, number, stop) { least.midpoint(most) } else { most }
            };
            lengths.push((0..gaps.len()).map(start).collect());
        }
        let mut read = vec![0; templates.len()];
        let mut search = Search::new(self, options)?;
        for number in 0..gaps.iter().map(Vec::len).max().unwrap_or(0) {
            let mut candidates = Vec::new();
            for (of, (template, gaps)) in templates.iter().zip(&gaps).enumerate() {
                if number >= gaps.len() || !template.searched(gaps, number, stop) {
                    continue;
                }
                let mut tried = lengths[of].clone();
                for length in gaps[number].least..=gaps[number].most {
                    tried[number] = length;
                    let (canvas, places) = template.canvas(&tried);
                    // A longer gap than there are positions for is no choice; the shortest is refused in its place.
                    if length > gaps[number].least && self.longest().is_some_and(|most| canvas.tokens.len() > most) {
                        break;
                    }
                    candidates.push(Candidate { of, canvas, gap: places[number].clone() });
                }
            }
            for best in search.best(candidates)? {
                lengths[best.of][number] = best.length;
                read[best.of] += best.read;
            }
        }
        let canvases: Vec<Canvas> =
            templates.iter().zip(&lengths).map(|(template, lengths)| template.canvas(lengths).0).collect();
        let decoded = self.decode_watched(&canvases, options, watch)?;
        let all = canvases.into_iter().zip(lengths).zip(decoded).zip(read);
        Ok(all
            .map(|(((canvas, lengths), mut decoded), read)| {
                decoded.nfe += read;
                Infilled { canvas, lengths, decoded }
            })
            .collect())
    }
}
