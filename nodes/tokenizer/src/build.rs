//! Adds documents to the growing store.

use std::path::Path;

use difflow_node_kit::{Problem, Problems};
use difflow_schema::Documents;
use eyre::{Context, Result, bail};

use crate::config::Config;
use crate::examples::Examples;
use crate::lengths::Lengths;
use crate::open_end::OpenEnd;
use crate::packing::{LongDocuments, Packer, Packing};
use crate::store::Record;
use crate::store_writer::StoreWriter;
use crate::words::Words;

/// A store under construction.
pub struct Build {
    words: Words,
    packer: Packer,
    writer: StoreWriter,
    lengths: Lengths,
    open_end: OpenEnd,
    /// How conversations become rows, where documents are conversations.
    examples: Option<Examples>,
    /// Tokens of the longest document that is taken, if there is such a limit.
    longest: Option<usize>,
}

impl Build {
    /// Begins in `dir`.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn begin(dir: &Path, key: String, words: Words, examples: Option<Examples>, config: &Config) -> Result<Self> {
        let writer = StoreWriter::create(dir, key, config.sequence_length, examples.is_some());
        let writer = writer.with_context(|| format!("cannot write the token store {}", dir.display()))?;
        let packer = Packer::new(config.packing, config.sequence_length, words.special.eos);
        let refuse = config.packing != Packing::Stream && config.long_documents == LongDocuments::Refuse;
        let longest = refuse.then_some(config.sequence_length);
        let (lengths, open_end) = (Lengths::new(config.sequence_length), OpenEnd::new(config));
        Ok(Self { words, packer, writer, lengths, open_end, examples, longest })
    }

    /// Adds documents.
    ///
    /// # Errors
    /// When the tokenizer refuses a text, the disk the rows, a document is longer than a row and may not be cut, or a conversation cannot be
    /// learned from.
    pub fn push(&mut self, documents: Documents) -> Result<()> {
        self.writer.record.documents += documents.doc.len() as u64;
        let conversations = documents.doc.len() == documents.messages.len() || documents.doc.is_empty();
        if conversations != self.examples.is_some() && !documents.doc.is_empty() {
            bail!(
                "the corpus says that its documents are conversations, or that they are not, and sends the other; start the run again"
            );
        }
        if self.examples.is_some() { self.push_conversations(&documents) } else { self.push_texts(documents) }
    }

    fn push_conversations(&mut self, documents: &Documents) -> Result<()> {
        let Some(examples) = &self.examples else { return Ok(()) };
        let mut rows = Vec::new();
        for (&doc, messages) in documents.doc.iter().zip(&documents.messages) {
            for mut example in examples.of(doc, messages, &self.words)? {
                let length = examples.ended_length(&example);
                self.lengths.count(length);
                self.packer.long_documents += u64::from(example.cut);
                let tail = if examples.takes_tail() { self.open_end.tail(doc, length) } else { 0 };
                examples.finish(&mut example, tail);
                self.packer.push_example(&example.tokens, &example.answers, &mut rows);
            }
        }
        self.writer.append(&rows).context("cannot write the token store")
    }

    fn push_texts(&mut self, documents: Documents) -> Result<()> {
        let (mut rows, mut document, eos) = (Vec::new(), Vec::new(), self.words.special.eos);
        for (doc, ids) in documents.doc.iter().zip(self.words.encode(documents.text)?) {
            self.refuse_long(*doc, ids.len() + 2)?;
            document.clear();
            document.push(self.words.special.bos);
            document.extend(ids);
            document.push(eos);
            self.lengths.count(document.len());
            document.resize(document.len() + self.open_end.tail(*doc, document.len()), eos);
            self.packer.push(&document, &mut rows);
        }
        self.writer.append(&rows).context("cannot write the token store")
    }

    fn refuse_long(&self, doc: u64, tokens: usize) -> Result<(), Problems> {
        let Some(longest) = self.longest.filter(|&longest| tokens > longest) else { return Ok(()) };
        let allowed = format!(
            "document {doc} of the corpus (counted from 0) has {tokens} tokens with BOS_TOKEN and EOS_TOKEN; give SEQUENCE_LENGTH at least that, \
             leave such documents out with SQL, or set LONG_DOCUMENTS: cut, or PACKING: stream"
        );
        Err(Problem::new("SEQUENCE_LENGTH", longest, allowed).into())
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
        self.writer.record.length_entropy = self.lengths.entropy();
        self.writer.finish().context("cannot finish the token store")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::words::tests::world;

    fn push(packing: Packing, long_documents: LongDocuments) -> Result<u64> {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { sequence_length: 4, packing, long_documents, ..world(dir.path(), 29) };
        let mut build = Build::begin(dir.path(), "k".into(), Words::open(&config).unwrap(), None, &config)?;
        let text = vec!["a b".into(), "a b c".into()];
        build.push(Documents { doc: vec![7, 8], text, messages: Vec::new() })?;
        Ok(build.finish()?.long_documents)
    }

    #[test]
    fn a_document_longer_than_a_sequence_is_named_unless_it_may_be_cut() {
        let text = push(Packing::Documents, LongDocuments::Refuse).unwrap_err().to_string();
        for part in ["SEQUENCE_LENGTH: found `4`", "document 8", "5 tokens", "LONG_DOCUMENTS: cut"] {
            assert!(text.contains(part), "{part} not in {text}");
        }
        assert_eq!(push(Packing::Documents, LongDocuments::Cut).unwrap(), 1);
        push(Packing::Stream, LongDocuments::Refuse).unwrap();
    }

    /// Text from the web ended a new user's first run: its long documents were refused until a key said otherwise.
    #[test]
    fn long_documents_are_cut_and_counted_by_default() {
        assert_eq!(push(Packing::Documents, Config::default().long_documents).unwrap(), 1);
    }
}
