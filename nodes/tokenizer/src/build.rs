//! Documents into the growing store.

use std::path::Path;

use difflow_schema::Documents;
use eyre::{Context, Result};

use crate::config::Config;
use crate::packing::Packer;
use crate::store::Record;
use crate::store_writer::StoreWriter;
use crate::words::Words;

/// A store under construction.
pub struct Build {
    words: Words,
    packer: Packer,
    writer: StoreWriter,
}

impl Build {
    /// Begins in `dir`.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn begin(dir: &Path, key: String, words: Words, config: &Config) -> Result<Self> {
        let writer = StoreWriter::create(dir, key, config.sequence_length);
        let writer = writer.with_context(|| format!("cannot write the token store {}", dir.display()))?;
        let packer = Packer::new(config.packing, config.sequence_length, words.eos);
        Ok(Self { words, packer, writer })
    }

    /// Adds documents.
    ///
    /// # Errors
    /// When the tokenizer refuses a text or the disk the rows.
    pub fn push(&mut self, documents: Documents) -> Result<()> {
        self.writer.record.documents += documents.doc.len() as u64;
        let (mut rows, mut document) = (Vec::new(), Vec::new());
        for ids in self.words.encode(documents.text)? {
            document.clear();
            document.push(self.words.bos);
            document.extend(ids);
            document.push(self.words.eos);
            self.packer.push(&document, &mut rows);
        }
        self.writer.append(&rows).context("cannot write the token store")
    }

    /// Rows that can be read.
    pub fn rows(&self) -> u64 {
        self.writer.record.rows
    }

    /// The corpus ended.
    ///
    /// # Errors
    /// When the disk does not take the rest.
    pub fn finish(mut self) -> Result<Record> {
        let mut rows = Vec::new();
        self.packer.finish(&mut rows);
        self.writer.append(&rows).context("cannot write the token store")?;
        self.writer.record.long_documents = self.packer.long_documents;
        self.writer.finish().context("cannot finish the token store")
    }
}
