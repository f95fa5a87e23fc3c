//! Splits a long text into documents without holding it in memory.

use std::io::{self, BufRead};

/// The pieces of a text between separators; each is held alone. An empty piece comes as one.
pub struct Split<R> {
    reader: R,
    separator: Vec<u8>,
}

impl<R: BufRead> Split<R> {
    /// Cuts what `reader` gives at each `separator`, which must not be empty.
    pub fn new(reader: R, separator: &str) -> Self {
        Self { reader, separator: separator.as_bytes().to_vec() }
    }

    fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut piece = Vec::new();
        let Some(&last) = self.separator.last() else { return Ok(None) };
        loop {
            // A separator can only end where its last byte is.
            if self.reader.read_until(last, &mut piece)? == 0 {
                return Ok((!piece.is_empty()).then_some(piece));
            }
            if piece.ends_with(&self.separator) {
                piece.truncate(piece.len() - self.separator.len());
                return Ok(Some(piece));
            }
        }
    }
}

impl<R: BufRead> Iterator for Split<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.piece().transpose()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The naive splitter of the standard library is the reference; the small buffer makes separators span reads.
    #[test]
    fn pieces_are_those_of_a_split_in_memory() {
        for text in ["one<|>two", "one<|>two<|>", "<|>", "", "a<<|>>b<|<|>c|>", "no separator"] {
            let reader = io::BufReader::with_capacity(1, text.as_bytes());
            let pieces: Vec<String> =
                Split::new(reader, "<|>").map(|piece| String::from_utf8(piece.unwrap()).unwrap()).collect();
            let mut wanted: Vec<&str> = text.split("<|>").collect();
            if wanted.last() == Some(&"") {
                wanted.pop();
            }
            assert_eq!(pieces, wanted, "{text}");
        }
    }
}
