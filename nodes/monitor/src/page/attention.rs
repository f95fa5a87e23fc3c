//! Attention patterns: the last one, and enough earlier ones to see how it opened.

use difflow_schema::Preview;
use serde::Serialize;

/// Most patterns kept.
const FRAMES: usize = 12;
/// How far the ratio goes from one kept pattern to the next.
const APART: f64 = 0.1;

/// A pattern on the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Frame {
    step: u64,
    ratio: f64,
    /// Tokens of a row, L.
    length: u64,
    /// Positions of a block; L where the row is not cut.
    block: u64,
    side: usize,
    /// Row by row a digit in base 16 for each cell: how much of it is visible.
    cells: String,
}

impl Frame {
    /// The pattern of a preview.
    pub fn of(preview: &Preview) -> Self {
        let digit = |cell: &u8| char::from(b"0123456789abcdef"[usize::from(*cell >> 4)]);
        Self {
            step: preview.step,
            ratio: preview.attn_mask_ratio,
            length: preview.length,
            block: preview.block,
            side: preview.side(),
            cells: preview.attention.iter().map(digit).collect(),
        }
    }
}

/// Puts the newest pattern behind those that are kept. The last one gives way to it if there is one like it before: cut as it is, and
/// open as far.
pub fn add(frames: &mut Vec<Frame>, frame: Frame) {
    let alike = |a: &Frame, b: &Frame| a.block == b.block && (a.ratio - b.ratio).abs() < APART;
    if let [before @ .., last] = frames.as_slice()
        && before.iter().any(|before| alike(before, last))
    {
        frames.pop();
    }
    frames.push(frame);
    if frames.len() > FRAMES {
        // Every other one of the old, so that the way from the first to the last is still seen.
        let mut number = 0;
        let newest = frames.len() - 2;
        frames.retain(|_| {
            number += 1;
            number > newest || number % 2 == 1
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frames(ratios: impl Iterator<Item = f64>) -> Vec<Frame> {
        let mut frames = Vec::new();
        for (step, ratio) in ratios.enumerate() {
            let preview =
                Preview { step: step as u64, attn_mask_ratio: ratio, attention: vec![255], ..Preview::default() };
            add(&mut frames, Frame::of(&preview));
        }
        frames
    }

    #[test]
    fn the_strip_shows_the_whole_way_and_stays_short() {
        let frames = frames((0..10_000).map(|n| f64::from(n) / 2000.0).map(|ratio| ratio.min(1.0)));
        assert!(frames.len() <= FRAMES && frames.len() >= 8, "{}", frames.len());
        assert_eq!((frames[0].ratio, frames.last().unwrap().step), (0.0, 9999));
        let widest = frames.windows(2).map(|pair| pair[1].ratio - pair[0].ratio).fold(0.0, f64::max);
        assert!(widest < 0.25, "a gap of {widest}");
    }

    /// A schedule of a plug-in may go up and down for ever.
    #[test]
    fn a_ratio_that_never_settles_keeps_the_strip_short() {
        let frames = frames((0..5000).map(|n| f64::from(n % 2)));
        assert!(frames.len() <= FRAMES);
        assert_eq!((frames[0].step, frames.last().unwrap().step), (0, 4999));
    }

    /// Of rows cut in several ways, and blocks that grow, one of each size is seen.
    #[test]
    fn the_strip_shows_each_size_of_block() {
        let mut all = Vec::new();
        for step in 0..3000 {
            let block = [4 << (step / 1000), 64][step as usize % 2];
            let attention = vec![255];
            add(&mut all, Frame::of(&Preview { step, block, length: 64, attention, ..Preview::default() }));
        }
        let blocks: Vec<u64> = all.iter().map(|frame| frame.block).collect();
        assert_eq!(blocks, [4, 64, 8, 16, 64]);
        assert_eq!(all.last().unwrap().step, 2999);
    }

    #[test]
    fn a_cell_is_a_digit() {
        let preview = Preview { attention: vec![0, 255, 128, 15], ..Preview::default() };
        let frame = Frame::of(&preview);
        assert_eq!((frame.cells.as_str(), frame.side), ("0f80", 2));
    }
}
