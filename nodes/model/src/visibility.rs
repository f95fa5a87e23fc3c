//! Which positions see which in a forward: for each query the ranges of keys that it may see, and within them, where
//! a pattern has holes, one bit per pair. The CPU kernel computes only the tiles that some query of a block sees; a
//! torch bias is built from the same data.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tch::{Device, Tensor};

use crate::batch::PADDING;
use crate::error::ModelError;
use crate::input::{Copies, Layout};
use crate::later::upload;
use crate::pattern::{Part, Pattern, Query};

/// Queries that the CPU kernel handles together.
pub(crate) const BLOCK: usize = 32;
/// Keys that it handles together: the widest vector.
pub(crate) const VECTOR: usize = 16;

/// One bit for each pair of a square, true where the key is visible. Rows are whole vectors of bits.
#[derive(Debug, Clone)]
pub(crate) struct Bits {
    length: usize,
    bytes: Vec<u8>,
}

impl Bits {
    /// Nothing visible.
    pub fn hidden(length: usize) -> Self {
        Self { length, bytes: vec![0; length * length.next_multiple_of(VECTOR) / 8] }
    }

    /// Makes keys visible to a query.
    pub fn show(&mut self, query: usize, keys: Range<usize>) {
        let row = self.start(query);
        let (first, last) = (keys.start.next_multiple_of(8).min(keys.end), (keys.end / 8 * 8).max(keys.start));
        if first < last {
            self.bytes[row + first / 8..row + last / 8].fill(u8::MAX);
        }
        let ends = if first < last { (keys.start..first).chain(last..keys.end) } else { keys.chain(0..0) };
        ends.for_each(|key| self.bytes[row + key / 8] |= 1 << (key % 8));
    }

    /// The bits of a query, a key each; whole vectors.
    pub fn row(&self, query: usize) -> &[u8] {
        &self.bytes[self.start(query)..self.start(query + 1)]
    }

    fn start(&self, query: usize) -> usize {
        query * self.length.next_multiple_of(VECTOR) / 8
    }

    fn sees(&self, query: usize, key: usize) -> bool {
        self.bytes[self.start(query) + key / 8] >> (key % 8) & 1 == 1
    }

    /// From the first to the last key that a query sees.
    fn hull(&self, query: usize) -> Range<usize> {
        let row = self.row(query);
        let first = row.iter().position(|&byte| byte != 0);
        let last = row.iter().rposition(|&byte| byte != 0);
        let (Some(first), Some(last)) = (first, last) else { return 0..0 };
        let (low, high) = (row[first].trailing_zeros(), 8 - row[last].leading_zeros());
        8 * first + low as usize..8 * last + high as usize
    }

    /// Whether every query sees all of its hull.
    fn is_solid(&self) -> bool {
        (0..self.length).all(|query| {
            let seen: u32 = self.row(query).iter().map(|byte| byte.count_ones()).sum();
            seen as usize == self.hull(query).len()
        })
    }
}

/// Lists of ranges, one after the other.
#[derive(Debug, Clone)]
struct Lists {
    /// Where each list starts, and where the last one ends.
    bounds: Vec<usize>,
    ranges: Vec<Range<usize>>,
}

impl Lists {
    fn new() -> Self {
        Self { bounds: vec![0], ranges: Vec::new() }
    }

    /// Ends the list that takes what has been added to `ranges` since the one before.
    fn close(&mut self) {
        self.bounds.push(self.ranges.len());
    }

    #[inline(always)]
    fn get(&self, number: usize) -> &[Range<usize>] {
        &self.ranges[self.bounds[number]..self.bounds[number + 1]]
    }
}

/// Who sees whom, for every row of a batch. Every query sees itself.
#[derive(Debug, Clone)]
pub(crate) struct Visibility {
    /// Positions of a row.
    length: usize,
    /// Rows that differ: 1 when all rows of the batch are alike.
    rows: usize,
    /// Of each query of each row, in order and apart.
    stretches: Lists,
    /// Of each block of queries of each row: what some query of it sees, in whole vectors.
    tiles: Lists,
    bits: Option<Bits>,
    /// Set when it is one of the two patterns that fused kernels know by name.
    named: Option<Named>,
    /// Set when it is one of them inside documents that lie one after the other.
    documents: Option<(Named, Vec<Stretch>)>,
}

/// Neighbouring places of a batch, `[rows · L]`.
pub(crate) type Stretch = Range<usize>;

/// Patterns that fused kernels of torch need no bias for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Causal,
    Full,
}

impl Visibility {
    /// Of a pattern, inside documents, and no further back than `window` positions, the query's own included. Errors when a pattern has
    /// another size.
    pub fn new(pattern: &Pattern, layout: Layout, window: Option<usize>) -> Result<Self, ModelError> {
        let (text, length) = (layout.text, layout.length());
        let pattern = pattern.simple(text);
        let documents = layout.documents.filter(|ids| restricts(ids, text, pattern == Pattern::Causal));
        let window = window.filter(|&window| window < text);
        let bits = pattern.bits(text)?;
        if pattern.copies() != layout.copies {
            let text = |copies| if copies == Copies::One { "a text that stands once" } else { "[x_t ; x_0]" };
            let (found, wanted) = (text(pattern.copies()), text(layout.copies));
            return Err(ModelError::input("attention pattern", format!("one of {found}"), format!("one of {wanted}")));
        }
        let named = match (&pattern, documents, window, layout.copies) {
            (Pattern::Causal, None, None, Copies::One) => Some(Named::Causal),
            (Pattern::Full, None, None, Copies::One) => Some(Named::Full),
            _ => None,
        };
        let whole_documents = match (&pattern, documents, window, layout.copies) {
            (Pattern::Causal, Some(ids), None, Copies::One) => apart(ids, text).map(|all| (Named::Causal, all)),
            (Pattern::Full, Some(ids), None, Copies::One) => apart(ids, text).map(|all| (Named::Full, all)),
            _ => None,
        };
        let rows = if documents.is_some() { layout.rows } else { 1 };
        let (mut stretches, mut tiles) = (Lists::new(), Lists::new());
        let whole = Runs::whole(text);
        for row in 0..rows {
            let own = documents.map(|ids| Runs::new(&ids[row * text..(row + 1) * text]));
            let runs = own.as_ref().unwrap_or(&whole);
            for at in 0..length {
                let position = at % text;
                let document = runs.of(position);
                let document_start = document.first().map_or(0, |run| run.start);
                let query = Query { part: part(at / text), position, document_start };
                let oldest = window.map_or(0, |window| (position + 1).saturating_sub(window));
                for copy in 0..layout.copies.count() {
                    let mut reach = pattern.reach(query, part(copy), text);
                    if let Some(bits) = &bits {
                        reach = bits.hull(position);
                    }
                    let reach = reach.start.max(oldest)..reach.end;
                    for run in document {
                        let (start, end) = (reach.start.max(run.start), reach.end.min(run.end));
                        if start < end {
                            stretches.ranges.push(copy * text + start..copy * text + end);
                        }
                    }
                }
                stretches.close();
            }
            for start in (0..length).step_by(BLOCK) {
                let block = row * length + start..row * length + (start + BLOCK).min(length);
                tiles.ranges.extend(union(block.flat_map(|query| stretches.get(query).iter().cloned())));
                tiles.close();
            }
        }
        let bits = bits.filter(|bits| !bits.is_solid());
        Ok(Self { length, rows, stretches, tiles, bits, named, documents: whole_documents })
    }

    /// Positions of a row.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The stretches of keys that a query may see, in order and apart; not empty.
    #[inline(always)]
    pub fn stretches(&self, row: usize, query: usize) -> &[Range<usize>] {
        self.stretches.get(row.min(self.rows - 1) * self.length + query)
    }

    /// The keys that some query of block `block` may see, in whole vectors, in order and apart.
    pub fn tiles(&self, row: usize, block: usize) -> &[Range<usize>] {
        self.tiles.get(row.min(self.rows - 1) * self.length.div_ceil(BLOCK) + block)
    }

    /// Which keys inside the stretches are visible; `None` when all are.
    pub fn bits(&self) -> Option<&Bits> {
        self.bits.as_ref()
    }

    /// Whether a query sees a key.
    pub fn sees(&self, row: usize, query: usize, key: usize) -> bool {
        self.stretches(row, query).iter().any(|stretch| stretch.contains(&key))
            && self.bits.as_ref().is_none_or(|bits| bits.sees(query, key))
    }

    /// The name of the pattern, where it is causal or full and nothing else.
    pub fn named(&self) -> Option<Named> {
        self.named
    }

    /// The documents one after the other, and how their tokens see each other, where that is all that there is to it.
    pub fn documents(&self) -> Option<(Named, &[Stretch])> {
        self.documents.as_ref().map(|(named, all)| (*named, all.as_slice()))
    }

    /// As booleans `[1 or B, 1, L, L]` on a device, from two numbers a stretch.
    pub fn tensor(&self, device: Device) -> Result<Tensor, ModelError> {
        let (rows, side) = (self.rows as i64, self.length as i64);
        let index =
            |values: &[i64], size: &[i64]| -> Result<Tensor, ModelError> { Ok(upload(values, device)?.f_view(size)?) };
        let queries = self.rows * self.length;
        let most = (0..queries).map(|query| self.stretches.get(query).len()).max().unwrap_or(0);
        let keys = Tensor::f_arange(side, (tch::Kind::Int64, device))?;
        let mut visible: Option<Tensor> = None;
        for number in 0..most {
            let nth = |query: usize| self.stretches.get(query).get(number).cloned().unwrap_or(0..0);
            let (starts, ends): (Vec<i64>, Vec<i64>) =
                (0..queries).map(nth).map(|stretch| (stretch.start as i64, stretch.end as i64)).unzip();
            let size = [rows, 1, side, 1];
            let inside =
                keys.f_ge_tensor(&index(&starts, &size)?)?.f_logical_and(&keys.f_lt_tensor(&index(&ends, &size)?)?)?;
            visible = Some(match visible {
                None => inside,
                Some(before) => before.f_logical_or(&inside)?,
            });
        }
        let visible = match visible {
            Some(visible) => visible,
            None => Tensor::f_zeros([rows, 1, side, side], (tch::Kind::Bool, device))?,
        };
        let Some(bits) = &self.bits else { return Ok(visible) };
        // An eighth of the bytes of booleans goes to the device.
        let bytes = upload(&bits.bytes, device)?.f_view((side, -1, 1))?;
        let values = upload(&[1u8, 2, 4, 8, 16, 32, 64, 128], device)?;
        let pairs = bytes.f_bitwise_and_tensor(&values)?.f_ne(0)?.f_view((1, 1, side, -1))?.f_narrow(3, 0, side)?;
        Ok(visible.f_logical_and(&pairs)?)
    }
}

/// The documents of a batch of rows of `length`; `None` where one comes back after another.
fn apart(ids: &[u32], length: usize) -> Option<Vec<Stretch>> {
    let mut all = Vec::new();
    for (row, ids) in ids.chunks(length.max(1)).enumerate() {
        let (mut seen, mut start) = (HashSet::new(), row * length);
        for run in ids.chunk_by(|a, b| a == b) {
            if !seen.insert(run[0]) {
                return None;
            }
            all.push(start..start + run.len());
            start += run.len();
        }
    }
    Some(all)
}

fn part(copy: usize) -> Part {
    if copy == 0 { Part::Noised } else { Part::Clean }
}

/// The documents of one row's text, each as its runs of positions: more than one where an id comes back after another.
struct Runs {
    documents: Vec<Vec<Range<usize>>>,
    of_position: Vec<usize>,
}

impl Runs {
    /// One document.
    fn whole(text: usize) -> Self {
        Self { documents: vec![vec![0..text]], of_position: vec![0; text] }
    }

    fn new(ids: &[u32]) -> Self {
        let mut numbers = HashMap::new();
        let (mut documents, mut of_position) = (Vec::<Vec<Range<usize>>>::new(), Vec::with_capacity(ids.len()));
        for run in ids.chunk_by(|a, b| a == b) {
            let number = *numbers.entry(run[0]).or_insert(documents.len());
            if number == documents.len() {
                documents.push(Vec::new());
            }
            let start = of_position.len();
            documents[number].push(start..start + run.len());
            of_position.extend(std::iter::repeat_n(number, run.len()));
        }
        Self { documents, of_position }
    }

    /// The runs of a position's document.
    fn of(&self, position: usize) -> &[Range<usize>] {
        &self.documents[self.of_position[position]]
    }
}

/// What lies in some of the ranges, in whole vectors, in order and apart.
fn union(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let vectors = ranges.map(|range| range.start / VECTOR * VECTOR..range.end.next_multiple_of(VECTOR));
    let mut vectors: Vec<Range<usize>> = vectors.collect();
    vectors.sort_unstable_by_key(|range| range.start);
    let mut tiles: Vec<Range<usize>> = Vec::new();
    for range in vectors {
        match tiles.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => tiles.push(range),
        }
    }
    tiles
}

/// Whether document ids change anything. A row of one document never does; under a causal pattern neither does padding to
/// the right, because no real token looks there.
fn restricts(documents: &[u32], length: usize, causal: bool) -> bool {
    documents
        .chunks(length.max(1))
        .any(|row| row.windows(2).any(|pair| pair[0] != pair[1] && !(causal && pair[1] == PADDING)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pattern::Context;

    const TEXT: usize = 37;

    fn documents() -> Vec<u32> {
        // Of three rows: one document; two and padding; one that comes back after another.
        let row = |ends: [usize; 2], ids: [u32; 3]| move |at: usize| ids[ends.iter().filter(|&&end| at >= end).count()];
        let rows = [row([TEXT, TEXT], [4, 4, 4]), row([9, 30], [0, 1, PADDING]), row([5, 21], [7, 8, 7])];
        rows.iter().flat_map(|row| (0..TEXT).map(row)).collect()
    }

    fn layout(documents: Option<&[u32]>, copies: Copies) -> Layout<'_> {
        Layout { rows: 3, text: TEXT, copies, documents }
    }

    /// What a kernel is told of documents is what is visible; where one comes back after another, nothing is told.
    #[test]
    fn documents_one_after_the_other_are_what_is_visible() {
        let ids = documents();
        for (pattern, named) in [(Pattern::Causal, Named::Causal), (Pattern::Full, Named::Full)] {
            let layout = Layout { rows: 2, ..layout(Some(&ids[..2 * TEXT]), Copies::One) };
            let visibility = Visibility::new(&pattern, layout, None).unwrap();
            let (found, all) = visibility.documents().unwrap();
            assert_eq!(
                (found, all),
                (named, [0..TEXT, TEXT..TEXT + 9, TEXT + 9..TEXT + 30, TEXT + 30..2 * TEXT].as_slice())
            );
            for (i, j) in
                (0..2 * TEXT).flat_map(|i| (0..2 * TEXT).map(move |j| (i, j))).filter(|(i, j)| i / TEXT == j / TEXT)
            {
                let together = all.iter().any(|document| document.contains(&i) && document.contains(&j));
                let told = together && (found == Named::Full || j <= i);
                assert_eq!(told, visibility.sees(i / TEXT, i % TEXT, j % TEXT), "{pattern:?} {i} {j}");
            }
            assert!(Visibility::new(&pattern, layout_of_three(&ids), None).unwrap().documents().is_none());
            assert!(Visibility::new(&pattern, layout, Some(5)).unwrap().documents().is_none());
        }
    }

    fn layout_of_three(ids: &[u32]) -> Layout<'_> {
        layout(Some(ids), Copies::One)
    }

    /// The rule in its own words, pair by pair.
    fn rule(pattern: &Pattern, i: usize, j: usize) -> bool {
        match pattern {
            Pattern::Causal => j <= i,
            Pattern::Full => true,
            Pattern::Band { right } => j <= i + right,
            Pattern::Block { size } => j / size <= i / size,
            Pattern::Explicit { visible } => i == j || visible[i * TEXT + j],
            Pattern::Annealed { .. } | Pattern::NoisedBlocks { .. } => unreachable!(),
        }
    }

    /// A wrong stretch, bit, document or window is some pair that should not be seen, or should.
    #[test]
    fn what_is_visible_is_the_predicate_pair_by_pair() {
        let holes: Vec<bool> = (0..TEXT * TEXT).map(|at| at % 3 == 0 || at % 7 == 1).collect();
        let band: Vec<bool> = (0..TEXT * TEXT).map(|at| at % TEXT <= at / TEXT + 4).collect();
        let patterns = [
            Pattern::Causal,
            Pattern::Full,
            Pattern::Band { right: 4 },
            Pattern::Block { size: 8 },
            Pattern::Explicit { visible: holes.into() },
            Pattern::Explicit { visible: band.into() },
        ];
        let documents = documents();
        for pattern in &patterns {
            for (ids, window) in
                [(None, None), (Some(&*documents), None), (None, Some(6)), (Some(&*documents), Some(6))]
            {
                let found = Visibility::new(pattern, layout(ids, Copies::One), window).unwrap();
                let tensor = crate::host::copied(&found.tensor(Device::Cpu).unwrap()).unwrap();
                for row in 0..3 {
                    for i in 0..TEXT {
                        for j in 0..TEXT {
                            let alike = ids.is_none_or(|ids| ids[row * TEXT + i] == ids[row * TEXT + j]);
                            let near = window.is_none_or(|window| j + window > i);
                            let wanted = rule(pattern, i, j) && alike && near;
                            assert_eq!(found.sees(row, i, j), wanted, "{pattern:?} {window:?} row {row}: {i} {j}");
                            let at = (row.min(found.rows - 1) * TEXT + i) * TEXT + j;
                            assert_eq!(tensor[at] == 1.0, wanted, "tensor, {pattern:?} row {row}: {i} {j}");
                        }
                    }
                }
            }
        }
    }

    /// The table of the block objective, entry by entry, documents included: blocks are counted from the first token of each.
    #[test]
    fn noised_blocks_see_what_the_table_says() {
        let documents = documents();
        for (size, context) in [(1, Context::Causal), (4, Context::Block), (4, Context::Causal), (64, Context::Block)] {
            let pattern = Pattern::NoisedBlocks { size, context };
            let found = Visibility::new(&pattern, layout(Some(&documents), Copies::NoisedAndClean), None).unwrap();
            for row in 0..3 {
                let ids = &documents[row * TEXT..(row + 1) * TEXT];
                let block = |at: usize| (at - ids.iter().position(|id| *id == ids[at]).unwrap()) / size;
                for query in 0..2 * TEXT {
                    for key in 0..2 * TEXT {
                        let (i, j) = (query % TEXT, key % TEXT);
                        let wanted = match (query < TEXT, key < TEXT) {
                            (true, true) => block(i) == block(j),
                            (true, false) => block(j) < block(i),
                            (false, true) => false,
                            (false, false) if context == Context::Causal => j <= i,
                            (false, false) => block(j) <= block(i),
                        };
                        let wanted = wanted && ids[i] == ids[j];
                        assert_eq!(found.sees(row, query, key), wanted, "{pattern:?} row {row}: {query} {key}");
                    }
                }
            }
        }
    }

    /// Of the (2L)² pairs about L²/2 + 2LB are visible, and little more is computed.
    #[test]
    fn tiles_leave_out_what_no_query_sees() {
        let text = 512;
        let layout = Layout { rows: 1, text, copies: Copies::NoisedAndClean, documents: None };
        let pattern = Pattern::NoisedBlocks { size: 32, context: Context::Block };
        let found = Visibility::new(&pattern, layout, None).unwrap();
        let computed: usize =
            (0..2 * text / BLOCK).flat_map(|block| found.tiles(0, block)).map(|tile| tile.len() * BLOCK).sum();
        assert_eq!(computed, text * text + text * 32, "two triangles of blocks, and the diagonal of x_t");
        let window = Visibility::new(&Pattern::Causal, Layout::row(text), Some(32)).unwrap();
        assert!((0..text / BLOCK).all(|block| window.tiles(0, block).iter().map(Range::len).sum::<usize>() <= 64));
    }

    #[test]
    fn solid_patterns_of_plugins_need_no_bits_and_simple_ones_no_bias() {
        let band: Vec<bool> = (0..TEXT * TEXT).map(|at| at % TEXT <= at / TEXT + 4).collect();
        let explicit = Pattern::Explicit { visible: band.into() };
        let found = Visibility::new(&explicit, Layout::row(TEXT), None).unwrap();
        assert!(found.bits().is_none() && found.named().is_none());
        let named = |pattern| Visibility::new(&pattern, Layout::row(TEXT), None).unwrap().named();
        assert_eq!(named(Pattern::Annealed { ratio: 0.0, seed: 0, draw: 0 }), Some(Named::Causal));
        assert_eq!(named(Pattern::Block { size: 64 }), Some(Named::Full));
    }

    #[test]
    fn right_padding_needs_no_bias_under_a_causal_pattern_and_one_under_a_full_pattern() {
        let documents = [0, 0, PADDING, PADDING];
        let layout = Layout { documents: Some(&documents), ..Layout::row(4) };
        let named = |pattern| Visibility::new(&pattern, layout, None).unwrap().named();
        assert_eq!(named(Pattern::Causal), Some(Named::Causal));
        assert_eq!(named(Pattern::Full), None);
    }
}
