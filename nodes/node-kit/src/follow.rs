//! Shared by the sampler and the evaluator: the work on each published checkpoint, in order, and at the end on the
//! last one if no message announced it. dora's edges may lose a message; the run folder does not.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use difflow_schema::Checkpoint;
use difflow_schema::run::{Manifest, RunDir};
use eyre::Result;

use crate::inbox::{Inbox, Stopped};
use crate::node::Node;

/// Work on a checkpoint, with a result that is kept in the run folder.
pub trait CheckpointWork {
    /// The result.
    type Outcome;

    /// Returns the result of earlier work on this checkpoint with the same settings, if there is one.
    fn earlier(&self, checkpoint: &Checkpoint) -> Option<Self::Outcome>;

    /// Works on a checkpoint and writes the outcome to the run folder. Calls `check` between batches. Errors with the
    /// error of `check`, or if the work is impossible.
    fn work(&self, checkpoint: &Checkpoint, check: &mut dyn FnMut() -> Result<()>) -> Result<Self::Outcome>;

    /// The most of the time that the work takes while the run trains, above 0 and at most 1. It rests in between.
    fn share(&self) -> f64;

    /// Whether the work failed for want of memory, which others may leave again. A lack of it then ends nobody: the checkpoint is passed over.
    fn lacked_memory(&self, _problem: &eyre::Report) -> bool {
        false
    }

    /// Tells the other nodes; `seq` is the number of the message. Errors if dora does not take it.
    fn tell(&self, node: &mut Node, seq: u64, outcome: &Self::Outcome) -> Result<()>;
}

/// Works on every published checkpoint until there are no more, and then on the last good one in `dir` if it is not
/// done: its message may have been lost. An earlier result is sent again, not computed again. A damaged checkpoint is
/// skipped with a warning, and so is one that there was no memory for; the last is tried again at the end. Errors if dora fails, or if the
/// work on an undamaged checkpoint does.
pub fn follow<W: CheckpointWork>(node: &mut Node, dir: &RunDir, work: &W) -> Result<()> {
    let mut inbox = Inbox::default();
    let (mut done, mut without_memory) = (BTreeSet::new(), BTreeSet::new());
    let mut seq = 0;
    while let Some(checkpoint) = next(&mut inbox, node, dir, &done)? {
        let outcome = match work.earlier(&checkpoint) {
            Some(outcome) => outcome,
            None => match work.work(&checkpoint, &mut at_its_share(&mut inbox, node, work.share())) {
                Ok(outcome) => outcome,
                Err(e) if e.is::<Stopped>() => return Ok(()),
                // The second time it is the last one, with nobody left who could leave some.
                Err(e) if work.lacked_memory(&e) && without_memory.insert(checkpoint.step) => {
                    eprintln!("warning: checkpoint of step {} is passed over: {e:#}", checkpoint.step);
                    continue;
                }
                Err(e) => {
                    passed_over(&checkpoint, e)?;
                    continue;
                }
            },
        };
        done.insert(checkpoint.step);
        work.tell(node, seq, &outcome)?;
        seq += 1;
    }
    Ok(())
}

/// What work calls between its batches: as [`Inbox::check`], after a rest.
fn at_its_share(inbox: &mut Inbox, node: &mut Node, share: f64) -> impl FnMut() -> Result<()> {
    let mut begin = Instant::now();
    move || {
        inbox.rest(node, rest(begin.elapsed(), share))?;
        begin = Instant::now();
        Ok(())
    }
}

/// How long to rest after so much work; for ever, where the share is next to nothing.
fn rest(worked: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(worked.as_secs_f64() * (1.0 - share) / share).unwrap_or(Duration::MAX)
}

/// Returns the next published checkpoint; after the last one, the last good one of the folder unless it is among
/// `done`.
fn next(inbox: &mut Inbox, node: &mut Node, dir: &RunDir, done: &BTreeSet<u64>) -> Result<Option<Checkpoint>> {
    match inbox.next(node)? {
        Some(checkpoint) => Ok(Some(checkpoint)),
        None if inbox.left() => Ok(None),
        None => missed(dir, done),
    }
}

fn missed(dir: &RunDir, done: &BTreeSet<u64>) -> Result<Option<Checkpoint>> {
    for step in dir.checkpoint_steps()?.into_iter().rev() {
        if done.contains(&step) {
            return Ok(None);
        }
        match Checkpoint::verified(&dir.checkpoint(step)) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(damage) => eprintln!("warning: checkpoint of step {step} is passed over: {damage}"),
        }
    }
    Ok(None)
}

/// Prints why a checkpoint is skipped. Errors with `problem` if the checkpoint is not to blame.
fn passed_over(checkpoint: &Checkpoint, problem: eyre::Report) -> Result<()> {
    let Checkpoint { step, path, .. } = checkpoint;
    if !Path::new(path).exists() {
        eprintln!("step {step}: {path} was pruned before its turn; it is passed over");
        return Ok(());
    }
    match Manifest::verify(Path::new(path)) {
        Ok(_) => Err(problem),
        Err(damage) => {
            eprintln!("warning: checkpoint of step {step} is passed over: {damage}");
            Ok(())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::fs;

    use difflow_schema::Metrics;
    use difflow_schema::run::{FileRecord, MANIFEST, file_sha256, write_atomically};
    use eyre::ensure;
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use crate::testing::Heard;

    /// Work that reads the checkpoint's one file; a result is a file of its own.
    struct Work {
        folder: TempDir,
        worked: RefCell<Vec<u64>>,
        /// How often there is no memory.
        lacks: Cell<usize>,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no memory")]
    struct NoMemory;

    impl CheckpointWork for Work {
        type Outcome = u64;

        fn earlier(&self, checkpoint: &Checkpoint) -> Option<u64> {
            self.dir().scores(checkpoint.step).exists().then_some(checkpoint.step)
        }

        fn work(&self, checkpoint: &Checkpoint, check: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
            check()?;
            if self.lacks.replace(self.lacks.get().saturating_sub(1)) > 0 {
                return Err(NoMemory.into());
            }
            let weights = fs::read(Path::new(&checkpoint.path).join("weights"))?;
            ensure!(weights == checkpoint.step.to_le_bytes(), "these are no weights");
            write_atomically(&self.dir().scores(checkpoint.step), b"{}")?;
            self.worked.borrow_mut().push(checkpoint.step);
            Ok(checkpoint.step)
        }

        fn share(&self) -> f64 {
            1.0
        }

        fn lacked_memory(&self, problem: &eyre::Report) -> bool {
            problem.is::<NoMemory>()
        }

        fn tell(&self, node: &mut Node, seq: u64, step: &u64) -> Result<()> {
            node.send("scores", seq, &Metrics::of_step(*step, [("nelbo", 1.0)]))
        }
    }

    impl Work {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), worked: RefCell::default(), lacks: Cell::default() }
        }

        fn dir(&self) -> RunDir {
            RunDir::new(self.folder.path(), "r")
        }

        /// Writes the checkpoint of `step`. Returns its message.
        fn checkpoint(&self, step: u64) -> Value {
            let folder = self.dir().checkpoint(step);
            write_atomically(&folder.join("weights"), &step.to_le_bytes()).unwrap();
            let (sha256, bytes) = file_sha256(&folder.join("weights")).unwrap();
            let files = BTreeMap::from([("weights".to_owned(), FileRecord { sha256, bytes })]);
            write_atomically(&folder.join(MANIFEST), &Manifest::new(step, step, step, files).text()).unwrap();
            let Checkpoint { path, sha256, .. } = Checkpoint::verified(&folder).unwrap();
            json!([{"step": step, "path": path, "sha256": sha256, "bytes": bytes, "tokens_seen": step}])
        }

        fn damage(&self, step: u64) {
            fs::write(self.dir().checkpoint(step).join("weights"), b"damaged!").unwrap();
        }

        /// Follows what is heard. Returns the steps that were worked on and those that were told.
        fn follow(&self, heard: Heard) -> Result<(Vec<u64>, Vec<u64>)> {
            let (mut node, mut said) = heard.node()?;
            follow(&mut node, &self.dir(), self)?;
            let told = said.on("scores").iter().map(|rows| rows[0]["step"].as_u64().unwrap()).collect();
            Ok((self.worked.take(), told))
        }
    }

    fn heard(messages: &[&Value]) -> Heard {
        let add = |heard: Heard, (seq, rows): (i64, &&Value)| {
            heard.message::<Checkpoint>("published", seq, (*rows).clone()).unwrap()
        };
        (0..).zip(messages).fold(Heard::default(), add)
    }

    /// dora's edge lost the message of the last checkpoint, which is the one that counts.
    #[test]
    fn the_last_checkpoint_is_done_when_its_message_was_lost() {
        let work = Work::new();
        let (first, _) = (work.checkpoint(10), work.checkpoint(20));
        let (worked, told) = work.follow(heard(&[&first]).closed("published").unwrap()).unwrap();
        assert_eq!((worked, told), (vec![10, 20], vec![10, 20]));
        // Once more: all is there, and nothing is made again.
        let (worked, told) = work.follow(heard(&[])).unwrap();
        assert_eq!((worked, told), (vec![], vec![20]));
    }

    #[test]
    fn nothing_is_done_again_when_no_message_was_lost() {
        let work = Work::new();
        let messages = [work.checkpoint(10), work.checkpoint(20)];
        assert_eq!(work.follow(heard(&[&messages[0], &messages[1]])).unwrap(), (vec![10, 20], vec![10, 20]));
    }

    /// Damaged after it was published: the node goes on, and at the end the last good one is done.
    #[test]
    fn a_damaged_checkpoint_is_passed_over_and_does_not_end_the_node() {
        let work = Work::new();
        let messages = [work.checkpoint(10), work.checkpoint(20), work.checkpoint(30)];
        work.damage(10);
        work.damage(30);
        assert_eq!(work.follow(heard(&[&messages[0], &messages[2]])).unwrap(), (vec![20], vec![20]));
        fs::remove_dir_all(work.dir().checkpoint(30)).unwrap();
        assert_eq!(work.follow(heard(&[&messages[2]])).unwrap(), (vec![], vec![20]), "30 was pruned before its turn");
    }

    /// An error of the work itself must not look like a damaged checkpoint.
    #[test]
    fn work_that_fails_on_a_good_checkpoint_ends_the_node() {
        let work = Work::new();
        let message = work.checkpoint(10);
        fs::create_dir_all(work.dir().root()).unwrap();
        fs::write(work.dir().root().join("scores"), b"a file where a folder is wanted").unwrap();
        assert!(work.follow(heard(&[&message])).is_err());
    }

    /// The trainer's memory would end the sampler, and that the run. With nobody else there any more, it is an error.
    #[test]
    fn a_checkpoint_that_there_is_no_memory_for_is_passed_over_and_the_last_one_tried_again() {
        let work = Work::new();
        let messages = [work.checkpoint(10), work.checkpoint(20)];
        work.lacks.set(1);
        assert_eq!(work.follow(heard(&[&messages[0], &messages[1]])).unwrap(), (vec![20], vec![20]));
        let message = work.checkpoint(30);
        work.lacks.set(1);
        assert_eq!(work.follow(heard(&[&message])).unwrap(), (vec![30], vec![30]));
        let message = work.checkpoint(40);
        work.lacks.set(2);
        assert!(work.follow(heard(&[&message])).unwrap_err().is::<NoMemory>());
    }

    #[test]
    fn a_rest_leaves_the_others_their_share() {
        assert_eq!(rest(Duration::from_secs(2), 0.25), Duration::from_secs(6));
        assert_eq!(rest(Duration::from_secs(2), 1.0), Duration::ZERO);
        assert_eq!(rest(Duration::from_secs(2), 1e-300), Duration::MAX);
    }

    #[test]
    fn a_stop_leaves_what_is_not_done() {
        let work = Work::new();
        work.checkpoint(10);
        assert_eq!(work.follow(Heard::default().stop()).unwrap(), (vec![], vec![]));
    }
}
