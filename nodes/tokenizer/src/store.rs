//! Reading the token store: three little-endian files, memory-mapped, and a record that marks them as complete.
//!
//! `tokens.u32` contains the rows, L ids each. `ends.u32` contains, for all rows one after another, where in its row
//! each document or piece of one ends; what follows the last end is padding. `rows.u64` contains for each row the
//! number of ends up to it.
//!
//! A store of conversations has two more: `spans.u32`, for all rows one after another, where in its row each answer begins and ends, two
//! numbers each; and `span_rows.u64`, for each row the number of answers up to it. Only what they name is maskable.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use difflow_schema::Sequences;
use difflow_schema::sequences::PADDING;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

/// The record of a complete store.
pub const RECORD: &str = "store.json";
pub const TOKENS: &str = "tokens.u32";
pub const ENDS: &str = "ends.u32";
pub const ROWS: &str = "rows.u64";
pub const SPANS: &str = "spans.u32";
pub const SPAN_ROWS: &str = "span_rows.u64";

/// What a store holds; written last.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// sha256 of everything that the content depends on.
    pub key: String,
    /// Rows in the store.
    pub rows: u64,
    /// Tokens in a row.
    pub length: usize,
    /// Ends in the store.
    pub ends: u64,
    /// Documents read.
    pub documents: u64,
    /// Documents that were cut because they are longer than a row.
    pub long_documents: u64,
    /// Tokens of the documents in the rows, without padding.
    pub tokens: u64,
    /// Entropy in nats of the documents' lengths, as cut.
    pub length_entropy: f64,
    /// Answers in the store, where documents are conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spans: Option<u64>,
}

/// A store that can be read, complete or still growing.
#[derive(Debug)]
pub struct Store {
    length: usize,
    tokens: Mapped,
    ends: Mapped,
    rows: Mapped,
    answers: Option<Answers>,
}

/// The files that conversations have besides.
#[derive(Debug)]
struct Answers {
    spans: Mapped,
    rows: Mapped,
}

impl Store {
    /// Opens the files in `dir`, whose names end in `suffix`, with rows of `length` tokens; of conversations also where the answers are.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn open(dir: &Path, suffix: &str, length: usize, conversations: bool) -> io::Result<Self> {
        let open = |name: &str| Mapped::open(&dir.join(format!("{name}{suffix}")));
        let answers = || Ok::<_, io::Error>(Answers { spans: open(SPANS)?, rows: open(SPAN_ROWS)? });
        let answers = conversations.then(answers).transpose()?;
        Ok(Self { length, tokens: open(TOKENS)?, ends: open(ENDS)?, rows: open(ROWS)?, answers })
    }

    /// Opens a complete store of this key; `None` when there is none, or its files are not as long as they should be.
    pub fn reopen(dir: &Path, key: &str) -> Option<(Self, Record)> {
        let record: Record = serde_json::from_slice(&std::fs::read(dir.join(RECORD)).ok()?).ok()?;
        let size = |name: &str| std::fs::metadata(dir.join(name)).map_or(0, |meta| meta.len());
        let sizes = [size(TOKENS), size(ENDS), size(ROWS)];
        let wanted = [record.rows * record.length as u64 * 4, record.ends * 4, record.rows * 8];
        let answers = record.spans.is_none_or(|spans| [size(SPANS), size(SPAN_ROWS)] == [spans * 8, record.rows * 8]);
        if record.key != key || sizes != wanted || !answers {
            return None;
        }
        Some((Self::open(dir, "", record.length, record.spans.is_some()).ok()?, record))
    }

    /// Appends row `row` to `out`. The first token of each document or piece is not maskable: it is bos, or has nothing before it
    /// in its row that it could be predicted from. Of conversations only answers are.
    ///
    /// # Errors
    /// When the files are shorter than that.
    pub fn read(&mut self, row: u64, out: &mut Sequences) -> io::Result<()> {
        let length = self.length;
        let first = row * length as u64;
        out.tokens.extend(numbers(self.tokens.bytes(first * 4..(first + length as u64) * 4)?));
        let (before, until) = counted(&mut self.rows, row)?;
        let start = out.documents.len();
        for (document, end) in numbers(self.ends.bytes(before * 4..until * 4)?).enumerate() {
            let first = out.documents.len();
            out.documents.resize(start + end as usize, document as u32);
            out.maskable.resize(start + end as usize, self.answers.is_none());
            out.maskable[first] = false;
        }
        if let Some(answers) = &mut self.answers {
            let (before, until) = counted(&mut answers.rows, row)?;
            let spans: Vec<u32> = numbers(answers.spans.bytes(before * 8..until * 8)?).collect();
            for span in spans.chunks_exact(2) {
                for at in span[0]..span[1] {
                    let at = start + at as usize;
                    out.maskable[at] = at > start && out.documents[at] == out.documents[at - 1];
                }
            }
        }
        out.documents.resize(start + length, PADDING);
        out.maskable.resize(start + length, false);
        out.length = length;
        out.rows += 1;
        Ok(())
    }
}

/// Of a file with a running number for each row: that before `row`, and that with it.
fn counted(file: &mut Mapped, row: u64) -> io::Result<(u64, u64)> {
    let counts = file.bytes(row.saturating_sub(1) * 8..(row + 1) * 8)?;
    let count = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    let before = if row == 0 { 0 } else { count(&counts[..8]) };
    Ok((before, count(&counts[counts.len() - 8..])))
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// A file that may be growing, in memory as far as it has been asked for.
#[derive(Debug)]
struct Mapped {
    path: PathBuf,
    file: File,
    map: Option<Mmap>,
}

impl Mapped {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::open(path)?, map: None })
    }

    fn bytes(&mut self, range: Range<u64>) -> io::Result<&[u8]> {
        let range = range.start as usize..range.end as usize;
        if range.is_empty() {
            return Ok(&[]);
        }
        if self.map.as_ref().is_none_or(|map| map.len() < range.end) {
            // SAFETY: the file is private to this run. Its writer only appends and renames, so no mapped byte ever changes or goes.
            self.map = Some(unsafe { Mmap::map(&self.file)? });
        }
        let bytes = self.map.as_ref().and_then(|map| map.get(range));
        bytes.ok_or_else(|| {
            let problem =
                format!("{} is shorter than its rows; delete the folder and start again", self.path.display());
            io::Error::new(io::ErrorKind::UnexpectedEof, problem)
        })
    }
}
