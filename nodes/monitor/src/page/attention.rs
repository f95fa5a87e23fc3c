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
            side: preview.side(),
            cells: preview.attention.iter().map(digit).collect(),
        }
    }
}

/// Puts the newest pattern behind those that are kept. The last one gives way to it unless the ratio has moved on since the one
/// before.
pub fn add(frames: &mut Vec<Frame>, frame: Frame) {
    if let [.., before, last] = frames.as_slice()
        && (last.ratio - before.ratio).abs() < APART
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

    #[test]
    fn a_cell_is_a_digit() {
        let preview = Preview { attention: vec![0, 255, 128, 15], ..Preview::default() };
        let frame = Frame::of(&preview);
        assert_eq!((frame.cells.as_str(), frame.side), ("0f80", 2));
    }
}
