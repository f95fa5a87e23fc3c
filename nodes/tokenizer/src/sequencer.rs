//! Batches of sequences by number: batch n contains the sequences n·B .. (n+1)·B, counted over all epochs.

use std::io;

use difflow_node_kit::Problem;
use difflow_schema::Sequences;

use crate::config::Config;
use crate::order::Order;
use crate::store::{Record, Store};

/// Rows read ahead of what is asked for, at least.
const LEAST_AHEAD: u64 = 1024;

/// What there is at a batch number.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The batch.
    Batch(Sequences),
    /// There are only this many batches.
    Ended(u64),
    /// The store must grow first.
    Wait,
}

/// Serves the store in order.
pub struct Sequencer {
    store: Store,
    order: Order,
    batch: u64,
    epochs: Option<u64>,
    rows: u64,
    complete: bool,
    /// Whether nothing is served before the store is complete.
    waits: bool,
    /// The last sequence that was asked for.
    furthest: u64,
}

impl Sequencer {
    /// Over a store that is empty so far.
    pub fn new(store: Store, config: &Config) -> Self {
        let order = Order::new(config.seed, config.shuffle_window);
        let batch = config.micro_batch.max(1) as u64;
        Self { store, order, batch, epochs: config.epochs, rows: 0, complete: false, waits: false, furthest: 0 }
    }

    /// Serves nothing before the store is complete: whatever is wrong with a conversation is then said before any training.
    pub fn wait_for_all(self) -> Self {
        Self { waits: true, ..self }
    }

    /// The store has so many rows now.
    pub fn grow(&mut self, rows: u64) {
        self.rows = rows;
    }

    /// The store is complete.
    ///
    /// # Errors
    /// When it holds no batch.
    pub fn complete(&mut self, record: &Record) -> Result<(), Problem> {
        (self.rows, self.complete) = (record.rows, true);
        if record.documents == 0 {
            return Err(Problem::new(
                "documents",
                "no document",
                "the corpus ended before its first; check its SOURCES and SQL",
            ));
        }
        if record.rows == 0 {
            let allowed = "all documents together are shorter than one sequence; shorten it, or use PACKING=documents";
            return Err(Problem::new("SEQUENCE_LENGTH", record.length, allowed));
        }
        if self.end() == Some(0) {
            let allowed = format!("EPOCHS gives only {} sequences: at most that", self.rows * self.epochs.unwrap_or(1));
            return Err(Problem::new("MICRO_BATCH", self.batch, allowed));
        }
        Ok(())
    }

    /// Whether the store should grow: it must hold what was asked for, and one window more.
    pub fn wants_rows(&self) -> bool {
        let ahead = self.order.window().max(LEAST_AHEAD);
        !self.complete && (self.waits || self.rows < self.order.needs(self.furthest).saturating_add(ahead))
    }

    /// The number of batches, if there is an end and it is known.
    fn end(&self) -> Option<u64> {
        let epochs = self.epochs.filter(|_| self.complete)?;
        Some(epochs.saturating_mul(self.rows) / self.batch)
    }

    /// Batch `seq`.
    ///
    /// # Errors
    /// When the store's files are damaged.
    pub fn get(&mut self, seq: u64) -> io::Result<Answer> {
        if let Some(end) = self.end().filter(|&end| seq >= end) {
            return Ok(Answer::Ended(end));
        }
        let first = seq.saturating_mul(self.batch);
        let until = first.saturating_add(self.batch);
        self.furthest = self.furthest.max(until - 1);
        if self.waits && !self.complete {
            return Ok(Answer::Wait);
        }
        let mut batch = Sequences::default();
        for g in first..until {
            let Some(row) = self.order.row(g, self.rows, self.complete) else { return Ok(Answer::Wait) };
            self.store.read(row, &mut batch)?;
        }
        Ok(Answer::Batch(batch))
    }
}

#[cfg(test)]
#[path = "sequencer_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
