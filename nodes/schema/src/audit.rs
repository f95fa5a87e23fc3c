//! `audit.jsonl` of a run: which micro-batches went into which checkpoint. The trainer counts every batch that it
//! trains on and writes a line before each checkpoint gets its name. From those lines [`prove`] shows that the
//! current weights saw each batch once and in order, however often the run was killed. Work that was lost with a
//! killed process is in no checkpoint, so its batches are trained on again; what counts is the chain of checkpoints
//! that leads to the newest.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Noised;
use crate::run::{bytes_sha256, sync_folder};

/// A line of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A trainer process begins.
    Started {
        /// Optimizer steps done.
        step: u64,
        /// The first batch that it will train on.
        next_seq: u64,
        /// sha256 of the manifest of the checkpoint it goes on from; none when it begins with the base model.
        checkpoint: Option<String>,
        /// Seconds since 1970, as the machine's clock has it.
        at: u64,
    },
    /// A checkpoint is about to be given its name.
    Checkpoint(Link),
}

/// What was trained on between two checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Optimizer steps done.
    pub step: u64,
    /// sha256 of the checkpoint's manifest.
    pub checkpoint: String,
    /// The same of the checkpoint before it; none for the base model.
    pub parent: Option<String>,
    /// The first batch trained on since the parent.
    pub first_seq: u64,
    /// The first batch not trained on.
    pub next_seq: u64,
    /// Batches trained on since the parent, counted one by one.
    pub batches: u64,
    /// [`chain`] over all batches so far.
    pub chain: String,
}

/// Digest of everything trained on up to batch `seq`, given that of everything before it. Two runs with the same digest trained
/// on the same batches in the same order.
pub fn chain(before: &str, seq: u64, batch: &Noised) -> String {
    let mut hash = Sha256::new();
    hash.update(before.as_bytes());
    hash.update(seq.to_le_bytes());
    batch.sequences.tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
    for flags in [&batch.masked, &batch.sequences.maskable] {
        hash.update(flags.iter().map(|&flag| u8::from(flag)).collect::<Vec<u8>>());
    }
    batch.weight.iter().for_each(|weight| hash.update(weight.to_le_bytes()));
    batch.blocks.iter().for_each(|size| hash.update(size.to_le_bytes()));
    hex::encode(hash.finalize())
}

/// Appends a line, on disk when this returns.
///
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, event: &Event) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    // A kill in the middle of a line must not spoil the next one.
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            line.insert(0, b'\n');
        }
    }
    file.write_all(&line)?;
    file.sync_all()?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// The lines of the file, in order; none where there is no file. A line that was cut off by a kill belongs to a checkpoint that
/// was never named and is passed over.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Event>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        bytes => Ok(bytes?.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()),
    }
}

/// What the records prove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// From the base model to the newest checkpoint.
    pub links: Vec<Link>,
    /// Trainer processes that there were.
    pub processes: u64,
    /// Batches in recorded checkpoints that the newest one does not come from: set aside, or found damaged.
    pub left_behind: u64,
}

/// Why the records prove nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// No line for a checkpoint.
    #[error("there is no record of checkpoint {0}; was audit.jsonl changed, or was the run begun by an older difflow?")]
    Missing(String),
    /// Two lines for one checkpoint that differ.
    #[error("there are two records of checkpoint {0} that differ; audit.jsonl was changed")]
    Twice(String),
    /// A range does not begin where the one before it ended.
    #[error("step {step}: its batches begin at {found}, those before it ended at {wanted}: batches were {what}")]
    Gap {
        /// Of the later checkpoint.
        step: u64,
        /// Its first batch.
        found: u64,
        /// The next batch of the one before.
        wanted: u64,
        /// What that means.
        what: &'static str,
    },
    /// The number of batches trained on is not the length of the range.
    #[error("step {step}: {batches} batches were trained on, the range {first_seq}..{next_seq} has another number")]
    Count {
        /// Of the checkpoint.
        step: u64,
        /// What was counted.
        batches: u64,
        /// First of the range.
        first_seq: u64,
        /// End of the range.
        next_seq: u64,
    },
    /// Checkpoints that lead back to themselves, or steps that do not grow.
    #[error("step {0} does not come after the checkpoint before it; audit.jsonl was changed")]
    Order(u64),
}

/// Shows from the records that checkpoint `newest` (sha256 of its manifest) was trained on every batch from 0 to its next one, each
/// once and in order.
///
/// # Errors
/// What speaks against it.
pub fn prove(events: &[Event], newest: &str) -> Result<Proof, AuditError> {
    let mut records: BTreeMap<&str, &Link> = BTreeMap::new();
    for event in events {
        let Event::Checkpoint(link) = event else { continue };
        if records.insert(&link.checkpoint, link).is_some_and(|earlier| earlier != link) {
            return Err(AuditError::Twice(link.checkpoint.clone()));
        }
    }
    let record = |sha256: &str| records.get(sha256).copied().ok_or_else(|| AuditError::Missing(sha256.to_owned()));
    let mut link = record(newest)?;
    let mut links = vec![link.clone()];
    loop {
        let Link { step, batches, first_seq, next_seq, .. } = *link;
        if next_seq.checked_sub(first_seq) != Some(batches) {
            return Err(AuditError::Count { step, batches, first_seq, next_seq });
        }
        let parent = link.parent.as_deref().map(record).transpose()?;
        let wanted = parent.map_or(0, |parent| parent.next_seq);
        if first_seq != wanted {
            let what = if first_seq > wanted { "left out" } else { "trained on twice" };
            return Err(AuditError::Gap { step, found: first_seq, wanted, what });
        }
        let Some(parent) = parent else { break };
        // Also what ends the walk: a step cannot shrink for ever.
        if parent.step >= step {
            return Err(AuditError::Order(step));
        }
        links.push(parent.clone());
        link = parent;
    }
    links.reverse();
    let kept: u64 = links.iter().map(|link| link.batches).sum();
    let all = records.values().fold(0u64, |sum, link| sum.saturating_add(link.batches));
    let processes = events.iter().filter(|event| matches!(event, Event::Started { .. })).count() as u64;
    Ok(Proof { links, processes, left_behind: all.saturating_sub(kept) })
}

/// A digest of the records for people to compare: that of the last batch trained on.
pub fn short(chain: &str) -> &str {
    chain.get(..16).unwrap_or(chain)
}

/// The digest before any batch.
pub fn nothing() -> String {
    bytes_sha256(b"")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Sequences;

    fn link(step: u64, parent: Option<u64>, first_seq: u64, next_seq: u64) -> Event {
        let name = |step: u64| format!("sha-{step}");
        Event::Checkpoint(Link {
            step,
            checkpoint: name(step),
            parent: parent.map(name),
            first_seq,
            next_seq,
            batches: next_seq - first_seq,
            chain: "c".into(),
        })
    }

    fn started(step: u64) -> Event {
        Event::Started { step, next_seq: 2 * step, checkpoint: None, at: 0 }
    }

    /// Killed after step 20, gone back to 10 once: the batches of the first 20 are no part of the newest checkpoint.
    #[test]
    fn a_run_with_breaks_is_proved_from_its_newest_checkpoint() {
        let mut other = link(20, Some(10), 20, 40);
        if let Event::Checkpoint(link) = &mut other {
            link.checkpoint = "set aside".into();
        }
        let events = [
            started(0),
            link(0, None, 0, 0),
            link(10, Some(0), 0, 20),
            other,
            started(10),
            link(20, Some(10), 20, 40),
            link(30, Some(20), 40, 60),
        ];
        let proof = prove(&events, "sha-30").unwrap();
        assert_eq!(proof.links.iter().map(|link| link.step).collect::<Vec<_>>(), [0, 10, 20, 30]);
        assert_eq!((proof.processes, proof.left_behind), (2, 20));
    }

    #[test]
    fn a_batch_left_out_or_trained_on_twice_is_found() {
        let of = |second: Event| prove(&[link(0, None, 0, 0), link(10, Some(0), 0, 20), second], "sha-20");
        assert!(of(link(20, Some(10), 20, 40)).is_ok());
        let text = of(link(20, Some(10), 21, 40)).unwrap_err().to_string();
        assert!(text.contains("step 20") && text.contains("left out"), "{text}");
        assert!(of(link(20, Some(10), 19, 40)).unwrap_err().to_string().contains("trained on twice"));
        assert_eq!(of(link(20, Some(7), 20, 40)), Err(AuditError::Missing("sha-7".into())));
        assert_eq!(of(link(20, Some(20), 40, 40)), Err(AuditError::Order(20)));
        let mut miscounted = link(20, Some(10), 20, 40);
        if let Event::Checkpoint(link) = &mut miscounted {
            link.batches = 19;
        }
        assert!(matches!(of(miscounted), Err(AuditError::Count { .. })));
        assert!(matches!(prove(&[link(0, None, 5, 5)], "sha-0"), Err(AuditError::Gap { .. })));
        let twice = prove(&[link(0, None, 0, 0), link(0, None, 0, 1)], "sha-0");
        assert_eq!(twice, Err(AuditError::Twice("sha-0".into())));
    }

    #[test]
    fn a_line_cut_off_by_a_kill_is_passed_over_and_spoils_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        assert!(read(&path).unwrap().is_empty());
        append(&path, &link(0, None, 0, 0)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(br#"{"event":"checkpoint","step":1"#);
        fs::write(&path, bytes).unwrap();
        append(&path, &started(0)).unwrap();
        assert_eq!(read(&path).unwrap(), [link(0, None, 0, 0), started(0)]);
    }

    /// Runs of before `noised/2` go on with the digest that they have, and two runs on the same batches have the same digest whichever
    /// difflow began them: of a batch with one weight a row it is over the bytes that it always was over.
    #[test]
    fn the_digest_of_a_batch_with_one_weight_a_row_is_what_it_always_was() {
        let (tokens, maskable) = (vec![3, 4, 5, 6], vec![false, true, true, true]);
        let sequences = Sequences { rows: 2, length: 2, tokens, documents: vec![0; 4], maskable };
        let masked = vec![false, true, false, true];
        let batch = Noised { sequences, masked, t: vec![0.5, 0.25], weight: vec![2.0, 4.0], blocks: Vec::new() };
        let mut bytes = nothing().into_bytes();
        bytes.extend(9u64.to_le_bytes());
        [3u32, 4, 5, 6].iter().for_each(|token| bytes.extend(token.to_le_bytes()));
        bytes.extend([0, 1, 0, 1, 0, 1, 1, 1]);
        [2f64, 4.0].iter().for_each(|weight| bytes.extend(weight.to_le_bytes()));
        assert_eq!(chain(&nothing(), 9, &batch), bytes_sha256(&bytes));
        let other = Noised { weight: vec![2.0, 2.0, 4.0, 8.0], ..batch.clone() };
        assert_ne!(chain(&nothing(), 9, &batch), chain(&nothing(), 9, &other));
    }

    #[test]
    fn the_chain_changes_with_batch_order_and_content() {
        let batch = |token: u32| Noised {
            sequences: Sequences { rows: 1, length: 1, tokens: vec![token], documents: vec![0], maskable: vec![true] },
            masked: vec![true],
            t: vec![0.5],
            weight: vec![2.0],
            blocks: Vec::new(),
        };
        let two = |(a, x): (u64, u32), (b, y): (u64, u32)| chain(&chain(&nothing(), a, &batch(x)), b, &batch(y));
        let one = two((0, 7), (1, 8));
        assert_eq!(one, two((0, 7), (1, 8)));
        assert_ne!(one, two((0, 8), (1, 7)));
        assert_ne!(one, two((1, 7), (0, 8)));
        assert_ne!(one, two((0, 7), (2, 8)));
    }
}
