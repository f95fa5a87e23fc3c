//! Texts with gaps, possibly of unknown length.

use std::ops::Range;

use crate::decode::canvas::{Canvas, Decoded};
use crate::decode::gap_length::{Candidate, GoOn, Search};
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
    /// Whether a length has to be searched, where stop tokens end a text.
    pub fn has_open_lengths(&self) -> bool {
        let gaps = self.gaps();
        (0..gaps.len()).any(|number| self.searched(&gaps, number, true))
    }

    /// The canvas with every gap as long as it may be.
    pub fn longest(&self) -> Canvas {
        let lengths: Vec<usize> = self.gaps().iter().map(|gap| gap.most).collect();
        self.canvas(&lengths).0
    }

    /// The same with these lengths where there is a choice that has to be searched; one at a free end stays as it is.
    #[must_use]
    pub fn with_lengths(&self, lengths: &[usize]) -> Self {
        let gaps = self.gaps();
        let (mut number, mut measured) = (0, self.clone());
        for piece in &mut measured.pieces {
            let Piece::Gap(gap) = piece else { continue };
            if let Some(&length) = lengths.get(number).filter(|_| self.searched(&gaps, number, true)) {
                *gap = GapLength { least: length, most: length };
            }
            number += 1;
        }
        measured
    }

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

/// A template whose gaps have their lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    pub canvas: Canvas,
    /// Tokens of each gap on it.
    pub lengths: Vec<usize>,
    /// Canvases that were read to find them.
    pub read: u32,
}

impl Model {
    /// Fills templates, with lengths as [`Model::gap_lengths`] finds them.
    ///
    /// # Errors
    /// When a template or an option does not fit the model.
    pub fn infill(
        &self,
        templates: &[Template],
        options: &DiffusionDecoding,
        watch: &mut Watch,
    ) -> Result<Vec<Infilled>, ModelError> {
        let measured = self.gap_lengths(templates, options, &mut || Ok(()))?;
        let canvases: Vec<Canvas> = measured.iter().map(|one| one.canvas.clone()).collect();
        let decoded = self.decode_watched(&canvases, options, watch)?;
        let all = measured.into_iter().zip(decoded);
        Ok(all
            .map(|(Measured { canvas, lengths, read }, mut decoded)| {
                decoded.nfe += read;
                Infilled { canvas, lengths, decoded }
            })
            .collect())
    }

    /// The lengths of the gaps of templates. Those that are not given are searched gap by gap from the left, the others meanwhile in
    /// the middle of their bounds; how a length is chosen is said in docs/SAMPLING.md. One at the very end is not searched but as long
    /// as it may be when a stop token can end it. `go_on` is asked before every forward.
    ///
    /// # Errors
    /// When a template or an option does not fit the model, or with the error of `go_on`.
    pub fn gap_lengths(
        &self,
        templates: &[Template],
        options: &DiffusionDecoding,
        go_on: &mut GoOn,
    ) -> Result<Vec<Measured>, ModelError> {
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
        let mut search = Search::new(self, options, go_on)?;
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
        let all = templates.iter().zip(lengths).zip(read);
        Ok(all
            .map(|((template, lengths), read)| Measured { canvas: template.canvas(&lengths).0, lengths, read })
            .collect())
    }
}
