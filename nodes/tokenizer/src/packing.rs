//! Packs the token ids of documents into rows of equal length.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How documents fill sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Whole documents, in order; what stays free at the end of a sequence is padding.
    #[default]
    Documents,
    /// Each document in a sequence of its own; the rest of it is padding.
    One,
    /// One stream of documents, cut every SEQUENCE_LENGTH tokens; nothing is padded, the tokens after the last cut are left out.
    Stream,
}

/// What happens to a document that is longer than a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LongDocuments {
    /// The run ends and names it.
    Refuse,
    /// It is cut into pieces as long as a sequence; how many were cut is said.
    #[default]
    Cut,
}

/// A row: its tokens and where in it each document, or piece of one, ends. Tokens after the last end are padding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// Token ids, `[L]`.
    pub tokens: Vec<u32>,
    /// Ends of the pieces, exclusive, rising.
    pub ends: Vec<u32>,
    /// Of conversations the places that are learned, in order; of plain texts none are said, for all but the first token of a piece is.
    pub learned: Vec<Range<u32>>,
}

/// Fills rows. Documents go in one after the other; full rows come out in order.
#[derive(Debug)]
pub struct Packer {
    packing: Packing,
    length: usize,
    eos: u32,
    row: Row,
    /// Documents that did not fit into one row (only counted when they should have).
    pub long_documents: u64,
}

impl Packer {
    /// A packer for rows of `length` tokens, padded with `eos`.
    pub fn new(packing: Packing, length: usize, eos: u32) -> Self {
        Self { packing, length, eos, row: Row::default(), long_documents: 0 }
    }

    /// Adds a conversation that is no longer than a row, of which these places are learned; the rows that it fills go to `out`.
    pub fn push_example(&mut self, tokens: &[u32], learned: &[Range<usize>], out: &mut Vec<Row>) {
        if self.row.tokens.len() + tokens.len() > self.length {
            self.close(out);
        }
        let start = self.row.tokens.len();
        let places = learned.iter().map(|place| (start + place.start) as u32..(start + place.end) as u32);
        self.row.learned.extend(places);
        self.push(tokens, out);
    }

    /// Adds a document with its special tokens; the rows that it fills go to `out`.
    pub fn push(&mut self, document: &[u32], out: &mut Vec<Row>) {
        if self.packing != Packing::Stream {
            if document.len() > self.length {
                self.long_documents += 1;
            }
            // Next fit: a document that does not fit into the rest of the row begins a new one.
            if self.row.tokens.len() + document.len() > self.length {
                self.close(out);
            }
        }
        let mut rest = document;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(self.length - self.row.tokens.len()));
            self.row.tokens.extend_from_slice(piece);
            self.row.ends.push(self.row.tokens.len() as u32);
            rest = after;
            if self.row.tokens.len() == self.length {
                self.close(out);
            }
        }
        if self.packing == Packing::One {
            self.close(out);
        }
    }

    /// The corpus ended: the row at hand is padded, or left out in a stream.
    pub fn finish(&mut self, out: &mut Vec<Row>) {
        if self.packing != Packing::Stream {
            self.close(out);
        }
    }

    fn close(&mut self, out: &mut Vec<Row>) {
        let mut row = std::mem::take(&mut self.row);
        if !row.tokens.is_empty() {
            row.tokens.resize(self.length, self.eos);
            out.push(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOS: u32 = 1;

    /// Document n: bos, `length` − 2 times 10 + n, eos.
    fn document(n: u32, length: usize) -> Vec<u32> {
        let mut tokens = vec![10 + n; length];
        tokens[0] = 0;
        tokens[length - 1] = EOS;
        tokens
    }

    fn pack(packing: Packing, length: usize, lengths: &[usize]) -> (Vec<Row>, u64) {
        let (mut packer, mut rows) = (Packer::new(packing, length, EOS), Vec::new());
        for (n, &length) in lengths.iter().enumerate() {
            packer.push(&document(n as u32, length), &mut rows);
        }
        packer.finish(&mut rows);
        (rows, packer.long_documents)
    }

    fn row(tokens: &[u32], ends: &[u32]) -> Row {
        Row { tokens: tokens.to_vec(), ends: ends.to_vec(), learned: Vec::new() }
    }

    #[test]
    fn documents_stay_whole_and_in_order() {
        let (rows, long) = pack(Packing::Documents, 6, &[3, 3, 4, 3, 2]);
        let wanted =
            [row(&[0, 10, 1, 0, 11, 1], &[3, 6]), row(&[0, 12, 12, 1, 1, 1], &[4]), row(&[0, 13, 1, 0, 1, 1], &[3, 5])];
        assert_eq!(rows, wanted);
        assert_eq!(long, 0);
    }

    /// Row-long pieces, the first with bos; the last piece leaves room for the documents after it.
    #[test]
    fn a_document_longer_than_a_row_is_cut_and_counted() {
        let (rows, long) = pack(Packing::Documents, 4, &[2, 9, 3, 4]);
        let wanted = [
            row(&[0, 1, 1, 1], &[2]),
            row(&[0, 11, 11, 11], &[4]),
            row(&[11, 11, 11, 11], &[4]),
            row(&[1, 0, 12, 1], &[1, 4]),
            row(&[0, 13, 13, 1], &[4]),
        ];
        assert_eq!(rows, wanted);
        assert_eq!(long, 1);
    }

    #[test]
    fn one_document_a_row_leaves_the_rest_of_it_to_padding() {
        let (rows, long) = pack(Packing::One, 4, &[2, 4, 6]);
        let wanted = [
            row(&[0, 1, 1, 1], &[2]),
            row(&[0, 11, 11, 1], &[4]),
            row(&[0, 12, 12, 12], &[4]),
            row(&[12, 1, 1, 1], &[2]),
        ];
        assert_eq!((rows, long), (wanted.to_vec(), 1));
    }

    /// Places are those of the row that the example came into, not of the one before.
    #[test]
    fn what_is_learned_of_an_example_moves_with_it() {
        let (mut packer, mut rows) = (Packer::new(Packing::Documents, 6, EOS), Vec::new());
        for (length, learned) in [(3, 1..3), (3, 2..3), (4, 2..4)] {
            packer.push_example(&document(0, length), std::slice::from_ref(&learned), &mut rows);
        }
        packer.finish(&mut rows);
        let learned: Vec<_> = rows.iter().map(|row| row.learned.clone()).collect();
        assert_eq!(learned, [&[1..3, 5..6][..], std::slice::from_ref(&(2..4))]);
    }

    /// In both ways no token is lost, doubled or moved, but for the stream's rest.
    #[test]
    fn rows_put_together_are_the_documents_put_together() {
        let lengths: Vec<usize> = (0..200).map(|i| 2 + (i * 37) % 23).collect();
        let all: Vec<u32> = lengths.iter().enumerate().flat_map(|(n, &length)| document(n as u32, length)).collect();
        for (packing, length) in
            [(Packing::Documents, 16), (Packing::Documents, 64), (Packing::Stream, 16), (Packing::Stream, 2)]
        {
            let (rows, long) = pack(packing, length, &lengths);
            let used = rows.iter().flat_map(|row| &row.tokens[..row.ends.last().copied().unwrap_or(0) as usize]);
            let used: Vec<u32> = used.copied().collect();
            assert!(rows.iter().all(|row| row.tokens.len() == length && row.ends.is_sorted_by(|a, b| a < b)));
            if packing == Packing::Stream {
                assert_eq!(used, all[..all.len() / length * length]);
            } else {
                assert_eq!(used, all);
                assert_eq!(long, lengths.iter().filter(|&&l| l > length).count() as u64);
            }
        }
    }
}
