//! lineage.json of a checkpoint: what it was trained with, and which checkpoint it comes from.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use difflow_schema::Noised;
use difflow_schema::audit::{self, Link};
use eyre::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Its name in the checkpoint's folder.
pub const LINEAGE: &str = "lineage.json";

/// What lineage.json holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// difflow's version.
    pub difflow: String,
    /// sha256 of the manifest of the checkpoint before; none for the base model.
    pub parent: Option<String>,
    /// The first batch trained on since then.
    pub first_seq: u64,
    /// Batches trained on since then.
    pub batches: u64,
    /// Digest of all batches so far ([`audit::chain`]).
    pub chain: String,
    /// Of another run, which this one began with a checkpoint of; none for most.
    pub fork: Option<Value>,
    /// Every key of every node.
    pub configuration: BTreeMap<String, Value>,
    /// sha256 of the base model's and the tokenizer's files.
    pub inputs: BTreeMap<String, String>,
}

impl Lineage {
    /// That of the verified checkpoint in `dir`; checkpoints of format 1 have none.
    ///
    /// # Errors
    /// When it cannot be read, or is not one.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(LINEAGE);
        match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            bytes => {
                let bytes = bytes.with_context(|| path.display().to_string())?;
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?))
            }
        }
    }
}

/// What has been trained on since the last checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    first_seq: u64,
    batches: u64,
    chain: String,
}

impl Trained {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Self { first_seq: 0, batches: 0, chain: audit::nothing() }
    }

    /// Nothing since the checkpoint with this lineage, whose next batch is `next_seq`. Without one, what came before it is left out
    /// of the digest.
    pub fn since(lineage: Option<Lineage>, next_seq: u64) -> Self {
        Self { first_seq: next_seq, batches: 0, chain: lineage.map_or_else(audit::nothing, |lineage| lineage.chain) }
    }

    /// Counts batch `seq`, which is about to be trained on.
    ///
    /// # Errors
    /// When another one is due.
    pub fn count(&mut self, seq: u64, batch: &Noised) -> Result<()> {
        let due = self.first_seq + self.batches;
        ensure!(seq == due, "batch {seq} is about to be trained on, but {due} is due; the last checkpoint is right");
        self.chain = audit::chain(&self.chain, seq, batch);
        self.batches += 1;
        Ok(())
    }

    /// Digest of all batches so far.
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Takes over what another process counted: all batches before `next_seq`, with this digest.
    pub fn counted(&mut self, next_seq: u64, chain: String) {
        (self.batches, self.chain) = (next_seq - self.first_seq, chain);
    }

    /// The record of the checkpoint made now, but for its own name and its parent's. Counting begins anew.
    pub fn close(&mut self, step: u64) -> Link {
        let next_seq = self.first_seq + self.batches;
        let (first_seq, batches) = (self.first_seq, self.batches);
        (self.first_seq, self.batches) = (next_seq, 0);
        let chain = self.chain.clone();
        Link { step, checkpoint: String::new(), parent: None, first_seq, next_seq, batches, chain }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_is_not_due_is_refused() {
        let mut trained = Trained::nothing();
        trained.count(0, &Noised::default()).unwrap();
        for wrong in [0, 2] {
            assert!(trained.count(wrong, &Noised::default()).unwrap_err().to_string().contains("1 is due"));
        }
        trained.count(1, &Noised::default()).unwrap();
        let link = trained.close(1);
        assert_eq!((link.first_seq, link.next_seq, link.batches), (0, 2, 2));
        trained.count(2, &Noised::default()).unwrap();
        assert_eq!(trained.close(2).first_seq, 2);
    }
}
