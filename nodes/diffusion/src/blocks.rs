//! How the rows of block diffusion are cut: which row has blocks of which size, and where they lie.

use std::ops::Range;
use std::str::FromStr;

use crate::keyed;

/// The sizes of blocks and how often rows have them, as the key BLOCK_SIZE spells them: `4`, `4..16` (a size that grows by doubling), `row`
/// (the row is not cut), or several with weights, `4:2,16:1,row:1`.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSizes(Vec<Share>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Share {
    first: Size,
    last: Size,
    weight: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Size {
    Positions(usize),
    Row,
}

impl Size {
    /// In positions of a row of `length`: no more than that.
    fn positions(self, length: usize) -> usize {
        match self {
            Self::Positions(size) => size.min(length),
            Self::Row => length,
        }
    }
}

impl Share {
    /// Its size when growth has come to `ratio` (0 the first, 1 the last). The sizes between are doublings; all last equally long.
    fn size(&self, ratio: f64, length: usize) -> usize {
        let (first, last) = (self.first.positions(length), self.last.positions(length));
        let mut sizes = vec![first];
        while let Some(&size) = sizes.last().filter(|&&size| size < last) {
            sizes.push(size.saturating_mul(2).min(last));
        }
        sizes[((ratio * sizes.len() as f64) as usize).min(sizes.len() - 1)]
    }
}

impl BlockSizes {
    /// The size of the blocks of each of `rows` rows of the global batch of optimizer step `step`, rows being `length` long: at most that,
    /// which is a row that is not cut. Each batch has every size as often as its weight says, as nearly as whole rows can; which rows have
    /// which is drawn.
    pub fn draw(&self, seed: u64, (step, rows): (u64, u64), ratio: f64, length: usize) -> Vec<usize> {
        let total: f64 = self.0.iter().map(|share| share.weight).sum();
        let offset = keyed::uniform(&mut keyed::rng(seed, "block", step, 0));
        let order = keyed::permutation(rows as usize, &mut keyed::rng(seed, "block", step, 1));
        let size = |place: u32| {
            let mut rest = (offset + f64::from(place)) / rows as f64 * total;
            let chosen = self.0.iter().find(|share| {
                rest -= share.weight;
                rest < 0.0
            });
            chosen.or(self.0.last()).map_or(length, |share| share.size(ratio, length))
        };
        order.into_iter().map(size).collect()
    }

    /// Whether a size grows.
    pub fn grows(&self) -> bool {
        self.0.iter().any(|share| share.first != share.last)
    }

    /// The size that a model is decoded with where nothing else is said: that of the largest weight (the first of them) at the end of its
    /// growth; whole rows only where there is nothing else.
    pub fn usual(&self, length: usize) -> usize {
        let cut = self.0.iter().filter(|share| share.last != Size::Row);
        let heaviest = cut.reduce(|best, share| if share.weight > best.weight { share } else { best });
        heaviest.map_or(length, |share| share.last.positions(length))
    }

    /// The size of each share of the rows at the end of its growth, the length where they are not cut, and how large that share is.
    pub fn shares(&self, length: usize) -> Vec<(usize, f64)> {
        let total: f64 = self.0.iter().map(|share| share.weight).sum();
        self.0.iter().map(|share| (share.size(1.0, length), share.weight / total)).collect()
    }

    /// The share of the rows that are cut, at the end of growth.
    pub fn cut_share(&self) -> f64 {
        let whole = usize::MAX;
        self.shares(whole).into_iter().filter(|&(size, _)| size < whole).map(|(_, share)| share).sum()
    }
}

impl FromStr for BlockSizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| {
            format!(
                "`{part}`: allowed: a number of positions, 1 or more; `row`; two of them for one that grows, `4..16`; a weight above 0 \
                 after each where there are several: `4:2,16:1,row:1`"
            )
        };
        let size = |text: &str| match text.trim() {
            "row" => Some(Size::Row),
            number => number.parse().ok().filter(|&size| size > 0).map(Size::Positions),
        };
        let share = |part: &str| {
            let (sizes, weight) = part.split_once(':').unwrap_or((part, "1"));
            let (first, last) = sizes.split_once("..").unwrap_or((sizes, sizes));
            let weight = weight.trim().parse().ok().filter(|weight: &f64| weight.is_finite() && *weight > 0.0);
            match (size(first), size(last), weight) {
                (Some(first), Some(last), Some(weight)) if first <= last => Ok(Share { first, last, weight }),
                _ => Err(wrong(part.trim())),
            }
        };
        text.split(',').map(share).collect::<Result<_, _>>().map(Self)
    }
}

/// The blocks of a row, counted from the first token of each document and never across documents; the last of a document may be short. A
/// row that is not cut is one block, whatever documents it has.
pub fn cut(documents: &[u32], size: usize) -> Vec<Range<usize>> {
    if size >= documents.len() {
        return std::iter::once(0..documents.len()).collect();
    }
    let (mut blocks, mut start) = (Vec::new(), 0);
    for run in documents.chunk_by(|a, b| a == b) {
        let end = start + run.len();
        blocks.extend((start..end).step_by(size.max(1)).map(|at| at..(at + size).min(end)));
        start = end;
    }
    blocks
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sizes(text: &str) -> BlockSizes {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_begin_with_each_document_and_the_last_is_short() {
        let documents = [0, 0, 0, 0, 0, 1, 1, 1, 1, 9];
        assert_eq!(cut(&documents, 2), [0..2, 2..4, 4..5, 5..7, 7..9, 9..10]);
        assert_eq!(cut(&documents, 10), std::slice::from_ref(&(0..10)));
        assert_eq!(cut(&documents, 9), [0..5, 5..9, 9..10]);
    }

    #[test]
    fn every_batch_has_each_size_as_often_as_its_weight_says() {
        let mixture = sizes("4:2, 16:1, row:1");
        let count = |drawn: &[usize], size| drawn.iter().filter(|&&drawn| drawn == size).count();
        let mut whole = 0;
        for step in 0..50 {
            let drawn = mixture.draw(7, (step, 16), 1.0, 64);
            assert_eq!([4, 16, 64].map(|size| count(&drawn, size)), [8, 4, 4], "step {step}: {drawn:?}");
            whole += usize::from(drawn[3] == 64);
        }
        // Were rows not drawn, a row would always have the size of its place.
        assert!((3..30).contains(&whole), "row 3 was whole in {whole} of 50 steps");
        assert_eq!(mixture.draw(7, (3, 16), 1.0, 64), mixture.draw(7, (3, 16), 1.0, 64));
        assert_ne!(mixture.draw(7, (3, 16), 1.0, 64), mixture.draw(8, (3, 16), 1.0, 64));
    }

    #[test]
    fn a_size_grows_by_doubling_and_each_lasts_equally_long() {
        let at = |text: &str, ratio| sizes(text).draw(0, (0, 1), ratio, 48)[0];
        let found: Vec<usize> = (0..=6).map(|sixth| at("4..24", f64::from(sixth) / 6.0)).collect();
        assert_eq!(found, [4, 4, 8, 16, 16, 24, 24]);
        assert_eq!((at("1..row", 0.0), at("1..row", 1.0), at("8", 0.0)), (1, 48, 8));
        assert!(sizes("4,8..16").grows() && !sizes("4,row").grows());
    }

    #[test]
    fn a_model_is_decoded_with_the_heaviest_size_that_cuts_rows() {
        let usual = |text: &str| sizes(text).usual(64);
        assert_eq!((sizes("4:2,row:2").cut_share(), sizes("1..row").cut_share()), (0.5, 0.0));
        assert_eq!(["4:2,16", "4,16", "4..16:3,32", "row:5,8:1", "row"].map(usual), [4, 4, 16, 8, 64]);
    }

    #[test]
    fn what_is_no_size_is_named() {
        for (text, part) in [("", "``"), ("4,0", "`0`"), ("16..4", "`16..4`"), ("4:0", "`4:0`"), ("4:x", "`4:x`")] {
            let error = text.parse::<BlockSizes>().unwrap_err();
            assert!(error.contains(part) && error.contains("row"), "{error}");
        }
    }
}
