//! Who keeps what of a model that several processes train: the trained parameters, one behind the other, are cut into a stretch for each
//! process.
//!
//! A cut lies sixteen elements apart from a parameter's beginning, or a multiple of that, so that norms are added up as in one process
//! (see [`Squares`]), and never in a matrix that is updated as a whole.

use std::ops::Range;

use crate::parameter::Parameter;

/// Elements of a parameter's values, as they lie in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its number among all parameters.
    pub parameter: usize,
    pub range: Range<usize>,
}

/// What each process has, in the order of the parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shares(Vec<Vec<Piece>>);

impl Shares {
    /// For so many processes. `whole` says of a parameter that it must not be cut.
    pub fn new(parameters: &[Parameter], size: usize, whole: impl Fn(&Parameter) -> bool) -> Self {
        let trained: Vec<(usize, &Parameter)> = parameters.iter().enumerate().filter(|(_, p)| p.trainable).collect();
        let total: usize = trained.iter().map(|(_, p)| p.tensor.numel()).sum();
        let (mut shares, mut start) = (vec![Vec::new(); size], 0);
        for (number, parameter) in trained {
            let count = parameter.tensor.numel();
            // Where the share of each process ends, in this parameter.
            let end = |rank: usize| {
                let wanted = (total * (rank + 1) / size).saturating_sub(start).min(count);
                if rank + 1 == size || wanted == count {
                    count
                } else if whole(parameter) {
                    // To the nearer side.
                    if 2 * wanted > count { count } else { 0 }
                } else {
                    wanted / LANES * LANES
                }
            };
            let mut from = 0;
            for (rank, share) in shares.iter_mut().enumerate() {
                let range = from..end(rank).max(from);
                from = range.end;
                if !range.is_empty() {
                    share.push(Piece { parameter: number, range });
                }
            }
            start += count;
        }
        Self(shares)
    }

    pub fn of(&self, rank: usize) -> &[Piece] {
        &self.0[rank]
    }

    /// Elements of a process.
    pub fn count(&self, rank: usize) -> usize {
        self.0[rank].iter().map(|piece| piece.range.len()).sum()
    }

    /// Elements of the process with the most.
    pub fn most(&self) -> usize {
        (0..self.0.len()).map(|rank| self.count(rank)).max().unwrap_or(0)
    }

    /// The pieces of a process that lie in this part of its stretch, each with where it begins there.
    pub fn within(&self, rank: usize, part: Range<usize>) -> impl Iterator<Item = (usize, Piece)> {
        let mut at = 0;
        self.0[rank].iter().filter_map(move |Piece { parameter, range }| {
            let begin = at;
            at += range.len();
            let (from, to) = (begin.max(part.start), at.min(part.end));
            let range = (from < to).then(|| range.start + from - begin..range.start + to - begin)?;
            Some((from - part.start, Piece { parameter: *parameter, range }))
        })
    }
}

const LANES: usize = 16;

/// Σ x² in f64 over sixteen lanes: a fixed order of additions, whatever the number of threads, which another process can go on with.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Squares([f64; LANES]);

impl Squares {
    /// Adds values, sixteen at a time; the last ones are left over.
    pub fn add<'a>(&mut self, values: &'a [f32]) -> &'a [f32] {
        let chunks = values.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &x) in self.0.iter_mut().zip(chunk) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        rest
    }

    /// The sum, with what was left over.
    pub fn end(self, rest: &[f32]) -> f64 {
        let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        self.0.iter().sum::<f64>() + rest
    }

    pub fn told(self) -> Vec<u8> {
        self.0.iter().flat_map(|lane| lane.to_le_bytes()).collect()
    }

    pub fn heard(bytes: &[u8]) -> Self {
        let mut squares = Self::default();
        for (lane, bytes) in squares.0.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut own = [0; 8];
            own.copy_from_slice(bytes);
            *lane = f64::from_le_bytes(own);
        }
        squares
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::small::{LLAMA, model};

    #[test]
    fn every_element_has_one_process_and_none_has_much_more_than_the_others() {
        let model = model(LLAMA);
        for size in [1, 2, 3, 4, 7] {
            for keep_whole in [false, true] {
                let whole = |p: &Parameter| keep_whole && p.leaf.matrices.is_some();
                let shares = Shares::new(&model.parameters, size, whole);
                let mut next = vec![0; model.parameters.len()];
                for rank in 0..size {
                    for Piece { parameter, range } in shares.of(rank) {
                        assert_eq!(range.start, next[*parameter], "no gap, and in order");
                        assert_eq!(range.start % LANES, 0);
                        next[*parameter] = range.end;
                        let all = model.parameters[*parameter].tensor.numel();
                        assert!(!whole(&model.parameters[*parameter]) || range.len() == all, "a matrix was cut");
                    }
                }
                assert!(model.parameters.iter().zip(&next).all(|(p, next)| p.tensor.numel() == *next));
                let total: usize = next.iter().sum();
                let largest = model.parameters.iter().map(|p| p.tensor.numel()).max().unwrap();
                let slack = if keep_whole { largest } else { 2 * LANES };
                assert!(shares.most() <= total / size + slack, "{size}: {} of {total}", shares.most());
            }
        }
    }

    #[test]
    fn parts_of_a_stretch_are_all_of_it() {
        let model = model(LLAMA);
        let shares = Shares::new(&model.parameters, 3, |_| false);
        let mut found = Vec::new();
        for begin in (0..shares.count(1)).step_by(100) {
            for (at, Piece { parameter, range }) in shares.within(1, begin..begin + 100) {
                assert!(at + range.len() <= 100);
                found.extend(range.map(|element| (parameter, element)));
            }
        }
        let all = shares.of(1).iter().flat_map(|piece| piece.range.clone().map(|element| (piece.parameter, element)));
        assert_eq!(found, all.collect::<Vec<_>>());
    }

    #[test]
    fn another_process_goes_on_with_a_sum_of_squares() {
        let values: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut whole = Squares::default();
        let rest = whole.add(&values);
        let mut first = Squares::default();
        assert!(first.add(&values[..48]).is_empty());
        let mut second = Squares::heard(&first.told());
        let left = second.add(&values[48..]);
        assert_eq!(second.end(left).to_bits(), whole.end(rest).to_bits());
    }
}
