//! Documents by batch number: batch n contains the documents n·D .. (n+1)·D of the corpus, whenever it is requested.

use std::collections::{BTreeSet, VecDeque};

use difflow_node_kit::{Problem, Problems};
use difflow_schema::Documents;

use crate::config::Config;
use crate::corpus::{Corpus, Reader};
use crate::document::Document;
use crate::heldout::Key;

/// Batches that are kept for a second question; an earlier one means reading the corpus again from its start.
const KEPT: usize = 16;

/// What there is at a batch number.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The batch.
    Batch(Documents),
    /// The corpus has only this many batches.
    Ended(u64),
}

/// The corpus in batches.
pub struct Batches {
    corpus: Corpus,
    reader: Reader,
    /// Documents that are left out.
    heldout: BTreeSet<Key>,
    size: u64,
    /// The number of the batch that the reader gives next.
    next_seq: u64,
    kept: VecDeque<Documents>,
    end: Option<u64>,
}

impl Batches {
    /// The documents of the corpus but for those held out; reads the first batch, so that mistakes show at the start.
    ///
    /// # Errors
    /// What is wrong with SOURCES, SQL or TEXT_COLUMN, or that there is no document at all.
    pub async fn open(config: &Config, corpus: Corpus, heldout: BTreeSet<Key>) -> Result<Self, Problems> {
        let reader = corpus.read().await?;
        let size = config.documents_per_batch.max(1);
        let mut batches = Self { corpus, reader, heldout, size, next_seq: 0, kept: VecDeque::new(), end: None };
        if batches.get(0).await? == Answer::Ended(0) {
            let (key, found) = match &config.sql {
                Some(sql) => ("SQL", sql),
                None => ("SOURCES", &config.sources),
            };
            let allowed = "it gives no documents: no row, or only NULL and empty texts; check the files and the filter";
            return Err(Problem::new(key, found, allowed).into());
        }
        Ok(batches)
    }

    /// Batch `seq`, or how many there are if that is too far.
    ///
    /// # Errors
    /// When a file turns out not to be readable.
    pub async fn get(&mut self, seq: u64) -> Result<Answer, Problem> {
        if let Some(end) = self.end.filter(|&end| seq >= end) {
            return Ok(Answer::Ended(end));
        }
        if seq + (self.kept.len() as u64) < self.next_seq {
            self.reader = self.corpus.read().await?;
            (self.next_seq, self.end) = (0, None);
            self.kept.clear();
        }
        while self.next_seq <= seq {
            let batch = self.read_batch().await?;
            if batch.doc.is_empty() {
                self.end = Some(self.next_seq);
                return Ok(Answer::Ended(self.next_seq));
            }
            self.next_seq += 1;
            self.kept.push_back(batch);
            if self.kept.len() > KEPT {
                self.kept.pop_front();
            }
        }
        let back = (self.next_seq - seq) as usize;
        Ok(Answer::Batch(self.kept[self.kept.len() - back].clone()))
    }

    async fn read_batch(&mut self) -> Result<Documents, Problem> {
        let mut batch = Documents::default();
        let first = self.next_seq * self.size;
        for doc in first..first + self.size {
            let Some(Document { text, messages }) = self.next_document().await? else { break };
            batch.doc.push(doc);
            batch.text.push(text);
            batch.messages.extend(messages);
        }
        Ok(batch)
    }

    async fn next_document(&mut self) -> Result<Option<Document>, Problem> {
        loop {
            match self.reader.next().await? {
                Some(document) if !self.heldout.is_empty() && self.heldout.contains(&Key::of(&document.text)) => {}
                document => return Ok(document),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "batches_tests.rs"]
mod tests;
