//! Documents with an open end: a tail of end tokens behind the one that ends the text, as a canvas has it whose text is shorter than it
//! (LLaDA, arXiv 2502.09992, trains on such tails). The tail belongs to the document: attention sees it, and noise masks it. A model
//! trained so ends a text by itself, wherever in its canvas.

use difflow_diffusion::keyed;

use crate::config::Config;

/// How long the tails are.
#[derive(Debug, Clone, Copy)]
pub struct OpenEnd {
    /// Of the documents that are shorter than a canvas, those that get a tail.
    share: f64,
    /// Longest document with its tail.
    canvas: usize,
    seed: u64,
}

impl OpenEnd {
    /// As the keys say.
    pub fn new(config: &Config) -> Self {
        Self { share: config.open_end, canvas: config.canvas.unwrap_or(config.sequence_length), seed: config.seed }
    }

    /// The longest canvas; `None` where no document gets a tail.
    pub fn canvas(self) -> Option<usize> {
        (self.share > 0.0).then_some(self.canvas)
    }

    /// End tokens behind document `doc` of so many tokens: any number with which it is no longer than a canvas, with the same
    /// probability. It depends on seed and number of the document only.
    pub fn tail(self, doc: u64, tokens: usize) -> usize {
        let room = self.canvas.saturating_sub(tokens);
        let mut rng = keyed::rng(self.seed, "open-end", doc, 0);
        let (chosen, length) = (keyed::uniform(&mut rng) < self.share, keyed::uniform(&mut rng));
        if chosen && room > 0 { 1 + (length * room as f64) as usize } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_end(share: f64) -> OpenEnd {
        OpenEnd::new(&Config { open_end: share, canvas: Some(12), sequence_length: 64, seed: 3, ..Config::default() })
    }

    #[test]
    fn the_share_of_documents_with_a_tail_is_the_keys_and_tails_fill_canvases_evenly() {
        let mut counts = [0u32; 13];
        (0..12_000).for_each(|doc| counts[open_end(0.25).tail(doc, 4)] += 1);
        // Three quarters have none; the others one of eight lengths.
        assert!((counts[0] as f64 / 9000.0 - 1.0).abs() < 0.03, "{counts:?}");
        assert!(counts[1..=8].iter().all(|&count| (300..450).contains(&count)), "{counts:?}");
        assert!(counts[9..].iter().all(|&count| count == 0), "{counts:?}");
        assert!((0..1000).all(|doc| open_end(1.0).tail(doc, 11) == 1 && open_end(1.0).tail(doc, 12) == 0));
        assert!((0..1000).all(|doc| open_end(0.0).tail(doc, 4) == 0));
        assert_eq!((open_end(0.0).canvas(), open_end(0.1).canvas()), (None, Some(12)));
    }
}
