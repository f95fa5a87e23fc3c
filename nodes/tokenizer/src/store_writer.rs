//! Writing a token store: files under temporary names that grow row by row, and a record at the end.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use difflow_schema::run::{sync_folder, write_atomically};

use crate::packing::Row;
use crate::store::{ENDS, RECORD, ROWS, Record, SPAN_ROWS, SPANS, TOKENS};

/// What the names of an unfinished store end in.
pub const UNFINISHED: &str = ".partial";

/// A store that is being written. Dropped unfinished, it leaves no record, and the next start begins anew.
#[derive(Debug)]
pub struct StoreWriter {
    dir: PathBuf,
    tokens: BufWriter<File>,
    ends: BufWriter<File>,
    rows: BufWriter<File>,
    /// Where the answers of conversations are, and how many up to each row.
    answers: Option<(BufWriter<File>, BufWriter<File>)>,
    /// What has been written.
    pub record: Record,
}

impl StoreWriter {
    /// Begins an empty store in `dir`, of conversations or of plain texts; a store that was there is given up.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn create(dir: &Path, key: String, length: usize, conversations: bool) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        match fs::remove_file(dir.join(RECORD)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => sync_folder(dir)?,
        }
        let create = |name: &str| Ok::<_, io::Error>(BufWriter::new(File::create(unfinished(dir, name))?));
        let record = Record { key, length, spans: conversations.then_some(0), ..Record::default() };
        let answers = conversations.then(|| Ok::<_, io::Error>((create(SPANS)?, create(SPAN_ROWS)?))).transpose()?;
        let (tokens, ends, rows) = (create(TOKENS)?, create(ENDS)?, create(ROWS)?);
        Ok(Self { dir: dir.to_owned(), tokens, ends, rows, answers, record })
    }

    /// Appends rows; when it returns they can be read.
    ///
    /// # Errors
    /// When the disk is full, for example.
    pub fn append(&mut self, rows: &[Row]) -> io::Result<()> {
        for row in rows {
            for token in &row.tokens {
                self.tokens.write_all(&token.to_le_bytes())?;
            }
            for end in &row.ends {
                self.ends.write_all(&end.to_le_bytes())?;
            }
            self.record.rows += 1;
            self.record.ends += row.ends.len() as u64;
            self.record.tokens += row.ends.last().copied().map_or(0, u64::from);
            self.rows.write_all(&self.record.ends.to_le_bytes())?;
            if let (Some((spans, rows)), Some(count)) = (&mut self.answers, &mut self.record.spans) {
                for span in &row.learned {
                    spans.write_all(&span.start.to_le_bytes())?;
                    spans.write_all(&span.end.to_le_bytes())?;
                }
                *count += row.learned.len() as u64;
                rows.write_all(&count.to_le_bytes())?;
            }
        }
        // Ends before the counts that point to them.
        self.tokens.flush()?;
        self.ends.flush()?;
        if let Some((spans, rows)) = &mut self.answers {
            spans.flush()?;
            rows.flush()?;
        }
        self.rows.flush()
    }

    /// Makes the store complete.
    ///
    /// # Errors
    /// When the disk does not take it; there is no record then.
    pub fn finish(self) -> io::Result<Record> {
        let answers = self.answers.into_iter().flat_map(|(spans, rows)| [(SPANS, spans), (SPAN_ROWS, rows)]);
        for (name, file) in [(TOKENS, self.tokens), (ENDS, self.ends), (ROWS, self.rows)].into_iter().chain(answers) {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            fs::rename(unfinished(&self.dir, name), self.dir.join(name))?;
        }
        sync_folder(&self.dir)?;
        write_atomically(&self.dir.join(RECORD), &serde_json::to_vec_pretty(&self.record)?)?;
        Ok(self.record)
    }
}

fn unfinished(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{UNFINISHED}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_schema::Sequences;
    use difflow_schema::sequences::PADDING;

    use super::*;
    use crate::store::Store;

    fn rows() -> [Row; 3] {
        let row =
            |tokens: [u32; 4], ends: &[u32]| Row { tokens: tokens.to_vec(), ends: ends.to_vec(), learned: Vec::new() };
        [row([0, 7, 1, 1], &[3]), row([0, 70_000, 8, 9], &[4]), row([9, 0, 1, 1], &[1, 3])]
    }

    fn read(store: &mut Store, rows: &[u64]) -> Sequences {
        let mut out = Sequences::default();
        for &row in rows {
            store.read(row, &mut out).unwrap();
        }
        out
    }

    /// Padding has no document and is not maskable; neither is the first token of a document or piece, even where bos and eos
    /// have the same id.
    #[test]
    fn rows_are_read_as_written_before_and_after_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path(), "k".into(), 4, false).unwrap();
        writer.append(&rows()[..1]).unwrap();
        let mut growing = Store::open(dir.path(), UNFINISHED, 4, false).unwrap();
        assert_eq!(read(&mut growing, &[0]).tokens, [0, 7, 1, 1]);
        assert!(growing.read(1, &mut Sequences::default()).is_err());
        writer.append(&rows()[1..]).unwrap();
        assert_eq!(read(&mut growing, &[1]).tokens, [0, 70_000, 8, 9]);
        let record = writer.finish().unwrap();
        let (mut store, reopened) = Store::reopen(dir.path(), "k").unwrap();
        assert_eq!(record, reopened);
        assert_eq!((record.rows, record.ends, record.tokens), (3, 4, 10));
        let all = read(&mut store, &[2, 0, 1]);
        assert_eq!(all, read(&mut growing, &[2, 0, 1]));
        let wanted = Sequences {
            rows: 3,
            length: 4,
            tokens: vec![9, 0, 1, 1, 0, 7, 1, 1, 0, 70_000, 8, 9],
            documents: vec![0, 1, 1, PADDING, 0, 0, 0, PADDING, 0, 0, 0, 0],
            maskable: [0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1].map(|flag| flag == 1).to_vec(),
        };
        assert_eq!(all, wanted);
    }

    /// A prompt that was maskable would be learned; so would the first token of a document, which nothing is before.
    #[test]
    fn of_conversations_only_answers_are_maskable() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path(), "k".into(), 6, true).unwrap();
        let row = |ends: &[u32], learned: &[std::ops::Range<u32>]| Row {
            tokens: vec![7; 6],
            ends: ends.to_vec(),
            learned: learned.to_vec(),
        };
        writer.append(&[row(&[3, 5], &[2..3, 3..5]), row(&[6], &[1..2, 4..6])]).unwrap();
        let record = writer.finish().unwrap();
        assert_eq!(record.spans, Some(4));
        let (mut store, _) = Store::reopen(dir.path(), "k").unwrap();
        let all = read(&mut store, &[1, 0]);
        let flags: Vec<u8> = all.maskable.iter().map(|&flag| u8::from(flag)).collect();
        assert_eq!(flags, [0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0]);
        assert_eq!(all.documents[6..], [0, 0, 0, 1, 1, PADDING]);
        let file = File::options().write(true).open(dir.path().join(SPANS)).unwrap();
        file.set_len(24).unwrap();
        assert!(Store::reopen(dir.path(), "k").is_none(), "answers are missing");
    }

    /// As difflow wrote it before there were conversations.
    #[test]
    fn a_store_of_before_is_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path(), "k".into(), 4, false).unwrap();
        writer.append(&rows()).unwrap();
        drop(writer.finish().unwrap());
        let text = fs::read_to_string(dir.path().join(RECORD)).unwrap();
        assert!(!text.contains("spans"), "{text}");
        assert!(!dir.path().join(SPANS).exists());
        let keys: Vec<String> = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(&text)
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(keys, ["key", "rows", "length", "ends", "documents", "long_documents", "tokens", "length_entropy"]);
        assert!(Store::reopen(dir.path(), "k").is_some());
    }

    #[test]
    fn only_a_complete_store_of_the_same_key_is_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let write = |finish: bool| {
            let mut writer = StoreWriter::create(dir.path(), "k".into(), 4, false).unwrap();
            writer.append(&rows()).unwrap();
            if finish {
                drop(writer.finish().unwrap())
            }
        };
        write(true);
        assert!(Store::reopen(dir.path(), "k").is_some());
        assert!(Store::reopen(dir.path(), "other").is_none());
        let file = File::options().write(true).open(dir.path().join(TOKENS)).unwrap();
        file.set_len(44).unwrap();
        assert!(Store::reopen(dir.path(), "k").is_none());
        write(true);
        assert!(Store::reopen(dir.path(), "k").is_some());
        // A build that is killed must not leave the record of the store before it.
        write(false);
        assert!(Store::reopen(dir.path(), "k").is_none());
    }
}
