//! Writing checkpoints during training: the trainer waits for a copy of its state; a thread writes it.

use std::fs;
use std::thread::{self, JoinHandle};

use difflow_schema::origin::ORIGIN;
use difflow_schema::run::RunDir;
use difflow_schema::{Checkpoint, Origin, Record};
use eyre::{Context, Result, eyre};

use crate::lineage::{LINEAGE, Lineage, Trained};
use crate::plugins::Plugins;
use crate::save::{self, ANNEALING_STATE, Content, PLUGINS, Position};
use crate::training::Training;

/// Writes one checkpoint at a time.
pub struct Saver {
    dir: RunDir,
    /// The plug-ins that train the checkpoints.
    pub plugins: Plugins,
    /// Where the checkpoints come from; none where the batches did not say.
    pub origin: Option<Origin>,
    /// sha256 of the manifest of the last checkpoint written.
    last: Option<String>,
    writing: Option<JoinHandle<Result<Checkpoint>>>,
}

impl Saver {
    /// For a run whose last checkpoint so far is `last`.
    pub fn new(dir: RunDir, plugins: Plugins, origin: Option<Origin>, last: Option<String>) -> Self {
        Self { dir, plugins, origin, last, writing: None }
    }

    /// sha256 of the manifest of the last checkpoint, if there is one.
    pub fn last(&self) -> Option<String> {
        self.last.clone()
    }

    /// Begins to write a checkpoint; training may go on when this returns. One that is still being written is waited for, and
    /// returned.
    ///
    /// # Errors
    /// When the one before could not be written, or there is no memory for the copy.
    pub fn begin(
        &mut self,
        training: &mut Training,
        position: Position,
        trained: &mut Trained,
    ) -> Result<Option<Checkpoint>> {
        let before = self.wait()?;
        let partial = save::prepare(&self.dir, position.step)?;
        let snapshot = training.learner.snapshot(&partial);
        let snapshot = snapshot.inspect_err(|_| _ = fs::remove_dir_all(&partial))?;
        let mut link = trained.close(position.step);
        link.parent = self.last.clone();
        // Read anew: by now every node has written its part.
        let record = Record::read(&self.dir)?.unwrap_or_default();
        let lineage = Lineage {
            difflow: record.difflow,
            parent: link.parent.clone(),
            first_seq: link.first_seq,
            batches: link.batches,
            chain: link.chain.clone(),
            fork: record.fork,
            configuration: record.configuration,
            inputs: record.inputs,
        };
        let mut beside =
            vec![(LINEAGE, serde_json::to_vec_pretty(&lineage)?), (PLUGINS, serde_json::to_vec_pretty(&self.plugins)?)];
        if let Some(origin) = &self.origin {
            beside.push((ORIGIN, serde_json::to_vec_pretty(origin)?));
        }
        beside.extend(training.annealing.instance_mut().save_state()?.map(|state| (ANNEALING_STATE, state)));
        let (dir, content) = (self.dir.clone(), Content { snapshot, beside, position, link });
        let writer = thread::Builder::new().name("checkpoint".into());
        let writing = writer.spawn(move || save::write(&dir, &content)).context("cannot start a thread")?;
        self.writing = Some(writing);
        Ok(before)
    }

    /// The checkpoint that was being written, if it is there by now.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn finished(&mut self) -> Result<Option<Checkpoint>> {
        if self.writing.as_ref().is_some_and(JoinHandle::is_finished) { self.wait() } else { Ok(None) }
    }

    /// Waits for the checkpoint that is being written, if there is one.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn wait(&mut self) -> Result<Option<Checkpoint>> {
        let Some(writing) = self.writing.take() else { return Ok(None) };
        let written = writing.join().map_err(|_| eyre!("the thread that writes checkpoints panicked"))??;
        self.last = Some(written.sha256.clone());
        Ok(Some(written))
    }
}
