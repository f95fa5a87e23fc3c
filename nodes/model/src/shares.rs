//! Who keeps what of a model that several processes train: the trained parameters, one behind the other, are cut into blocks, and each block
//! into a stretch for each process.
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

/// Parameters that are exchanged together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// Numbers of those that are trained.
    pub parameters: Vec<usize>,
    /// Where the elements of each process begin and end among all that it has.
    pub stretches: Vec<Range<usize>>,
}

impl Block {
    /// Elements of the process with the most of it.
    pub fn most(&self) -> usize {
        self.stretches.iter().map(Range::len).max().unwrap_or(0)
    }
}

/// What each process has, in the order of the parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shares {
    pieces: Vec<Vec<Piece>>,
    blocks: Vec<Block>,
    /// Elements of each parameter.
    counts: Vec<usize>,
}

impl Shares {
    /// For so many processes, in blocks of `least` elements or more. `whole` says of a parameter that it must not be cut.
    pub fn new(parameters: &[Parameter], size: usize, least: usize, whole: impl Fn(&Parameter) -> bool) -> Self {
        let counts: Vec<usize> = parameters.iter().map(|parameter| parameter.tensor.numel()).collect();
        let mut shares = Self { pieces: vec![Vec::new(); size], blocks: Vec::new(), counts };
        let (mut block, mut elements) = (Vec::new(), 0);
        for (number, _) in parameters.iter().enumerate().filter(|(_, parameter)| parameter.trainable) {
            block.push(number);
            elements += shares.counts[number];
            if elements >= least {
                shares.add(parameters, std::mem::take(&mut block), &whole);
                elements = 0;
            }
        }
        if !block.is_empty() {
            shares.add(parameters, block, &whole);
        }
        shares
    }

    /// For so many processes, where each of these parts of the parameters is a block.
    pub fn of_units(parameters: &[Parameter], size: usize, units: &[Range<usize>]) -> Self {
        let counts: Vec<usize> = parameters.iter().map(|parameter| parameter.tensor.numel()).collect();
        let mut shares = Self { pieces: vec![Vec::new(); size], blocks: Vec::new(), counts };
        for unit in units {
            shares.add(parameters, unit.clone().collect(), |_| false);
        }
        shares
    }

    /// Gives each process a stretch of a block: what stays whole goes to the one with the least so far, and the rest is cut evenly.
    fn add(&mut self, parameters: &[Parameter], block: Vec<usize>, whole: impl Fn(&Parameter) -> bool) {
        let size = self.pieces.len();
        let begun: Vec<usize> = (0..size).map(|rank| self.count(rank)).collect();
        let mut now = begun.clone();
        let mut give = |rank: usize, parameter: usize, range: Range<usize>| {
            if !range.is_empty() {
                now[rank] += range.len();
                self.pieces[rank].push(Piece { parameter, range });
            }
        };
        let cut = |number: &usize| !whole(&parameters[*number]);
        let total: usize = block.iter().filter(|number| cut(number)).map(|&number| self.counts[number]).sum();
        let mut start = 0;
        let mut uncut = Vec::new();
        for &number in &block {
            let count = self.counts[number];
            if !cut(&number) {
                uncut.push(number);
                continue;
            }
            let mut from = 0;
            for rank in 0..size {
                // Where the share of each process ends, in this parameter.
                let wanted = (total * (rank + 1) / size).saturating_sub(start).min(count);
                let end = if rank + 1 == size || wanted == count { count } else { wanted / LANES * LANES };
                give(rank, number, from..end.max(from));
                from = end.max(from);
            }
            start += count;
        }
        for number in uncut {
            let least = (0..size).min_by_key(|&rank| now[rank]).unwrap_or(0);
            now[least] += self.counts[number];
            self.pieces[least].push(Piece { parameter: number, range: 0..self.counts[number] });
        }
        for pieces in &mut self.pieces {
            pieces.sort_by_key(|piece| piece.parameter);
        }
        let stretches = begun.into_iter().zip(now).map(|(begin, end)| begin..end).collect();
        self.blocks.push(Block { parameters: block, stretches });
    }

    /// Returns what is exchanged together, in the order of the parameters.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    pub fn of(&self, rank: usize) -> &[Piece] {
        &self.pieces[rank]
    }

    /// Elements of a process.
    pub fn count(&self, rank: usize) -> usize {
        self.pieces[rank].iter().map(|piece| piece.range.len()).sum()
    }

    /// Elements of the process with the most of a block.
    pub fn most(&self) -> usize {
        self.blocks.iter().map(Block::most).max().unwrap_or(0)
    }

    /// Returns the parameters that several processes have parts of, in order.
    pub fn cut(&self) -> Vec<usize> {
        let ends = |piece: &&Piece| piece.range.start > 0 && piece.range.end == self.counts[piece.parameter];
        let mut cut: Vec<usize> = self.pieces.iter().flatten().filter(ends).map(|piece| piece.parameter).collect();
        cut.sort_unstable();
        cut
    }

    /// The pieces of a process that lie in this part of what it has, each with where it begins there.
    pub fn within(&self, rank: usize, part: Range<usize>) -> impl Iterator<Item = (usize, Piece)> {
        let mut at = 0;
        self.pieces[rank].iter().filter_map(move |Piece { parameter, range }| {
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
            for (keep_whole, least) in [(false, usize::MAX), (true, usize::MAX), (false, 1000), (true, 1000)] {
                let whole = |p: &Parameter| keep_whole && p.leaf.matrices.is_some();
                let shares = Shares::new(&model.parameters, size, least, whole);
                assert_eq!(shares.blocks().len() > 1, least < usize::MAX);
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
                let slack = shares.blocks().len() * 2 * LANES + if keep_whole { largest } else { 0 };
                let most = (0..size).map(|rank| shares.count(rank)).max().unwrap();
                assert!(most <= total / size + slack, "{size}: {most} of {total}");
                // The stretches of the blocks lie one behind the other, and hold what is of the block.
                let mut ends = vec![0; size];
                for Block { parameters, stretches } in shares.blocks() {
                    for (rank, stretch) in stretches.iter().enumerate() {
                        assert_eq!(stretch.start, std::mem::replace(&mut ends[rank], stretch.end));
                        let own = shares.within(rank, stretch.clone());
                        assert!(own.into_iter().all(|(_, piece)| parameters.contains(&piece.parameter)));
                    }
                }
                assert!((0..size).all(|rank| ends[rank] == shares.count(rank)));
            }
        }
    }

    #[test]
    fn parts_of_a_stretch_are_all_of_it() {
        let model = model(LLAMA);
        let shares = Shares::new(&model.parameters, 3, 2000, |_| false);
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
