//! A learner's files: what it keeps, and what several ranks keep together.

use std::path::Path;

use tch::Tensor;

use super::Learner;
use crate::error::ModelError;
use crate::shared_file::SharedFile;
use crate::snapshot::Snapshot;
use crate::tensor_writer::SavedFile;
use crate::together::Target;

impl Learner {
    /// Has models and states of more bytes than this written as several files and an index; 5 GB where nothing is said, as `transformers` does.
    /// All ranks say the same.
    pub fn limit_files(&mut self, bytes: u64) {
        self.file_limit = bytes;
    }

    /// Writes the model's files and those of the optimizer's state into an existing folder, each synced to disk. Training that goes
    /// on from them gives the same bits as training that never stopped. With an average, the model's file holds the average. Of several ranks
    /// only rank 0 comes here, and the others [`Learner::help_save`].
    pub fn save(&self, dir: &Path) -> Result<Vec<SavedFile>, ModelError> {
        self.content(dir)?.write(dir)
    }

    /// A copy of what [`Learner::save`] writes, in host memory: training may go on while another thread writes it into `dir`, an empty
    /// folder. A plug-in's torch model is written there before this returns, and so is what several ranks keep: no rank
    /// ever has all of it. Only rank 0 makes one, and the others [`Learner::help_save`].
    ///
    /// # Errors
    /// When there is no memory for it: as much again as weights, moments and average take; or what the plug-in says.
    pub fn snapshot(&self, dir: &Path) -> Result<Snapshot, ModelError> {
        self.content(dir)?.copied()
    }

    fn content(&self, dir: &Path) -> Result<Snapshot, ModelError> {
        let written = self.save_together(dir)?;
        if self.reducer.weights()?.is_some() {
            return Ok(Snapshot { written, own: None, optimizer: None, file_limit: self.file_limit });
        }
        let whole = self.reducer.pieces().is_none();
        let content = || self.optimizer.content(&self.model.parameters, self.average.is_some());
        let optimizer = whole.then(content).transpose()?;
        let mut snapshot = match &self.average {
            None => self.model.content(dir, |_, parameter| parameter.tensor.shallow_clone())?,
            Some(average) => self.model.content(dir, |at, _| average.values[at].shallow_clone())?,
        };
        snapshot.written.extend(written);
        Ok(Snapshot { optimizer, file_limit: self.file_limit, ..snapshot })
    }

    /// Reads the files of the optimizer's state; the model's weights are those the learner was made with. Call [`Learner::keep_average`]
    /// first where an average is kept: the model's file held it, and the weights are read here.
    pub fn load_optimizer(&mut self, dir: &Path) -> Result<(), ModelError> {
        let keeps = self.reducer.weights()?;
        self.optimizer.load(dir, &self.model.parameters, self.average.is_some(), keeps.as_deref())?;
        // With an average, the weights were read, too.
        self.round_again()
    }

    /// What the other ranks do while rank 0 [`Learner::save`]s or makes a [`Learner::snapshot`]: they give what they keep, and write files in
    /// the same folder, where they see it, which are returned. Nothing happens where each keeps everything.
    ///
    /// # Errors
    /// When a rank is lost, or the disk is full.
    pub fn help_save(&self, dir: &Path) -> Result<Vec<SavedFile>, ModelError> {
        if self.reducer.rank() == 0 { Ok(Vec::new()) } else { self.save_together(dir) }
    }

    /// Where ranks keep pieces, writes the files of which none has all. All come here. Returns those that this one wrote, and in rank 0 all.
    fn save_together(&self, dir: &Path) -> Result<Vec<SavedFile>, ModelError> {
        let reducer = self.reducer.as_ref();
        if reducer.pieces().is_none() {
            return Ok(Vec::new());
        }
        let writers = reducer.writers(dir)?;
        let target = Target { dir, limit: self.file_limit, writers: &writers };
        let mut files = self.optimizer.write(&target, &self.model.parameters, self.average.is_some(), reducer)?;
        if let Some(values) = self.kept_values()? {
            files.extend(SharedFile::new(&self.model, &values, reducer)?.write(&target)?);
        }
        Ok(files)
    }

    /// What this process keeps of the values of the model's file, where it does not have all of them.
    fn kept_values(&self) -> Result<Option<Vec<Tensor>>, ModelError> {
        let Some(weights) = self.reducer.weights()? else { return Ok(None) };
        Ok(Some(match &self.average {
            None => weights,
            Some(average) => average.values.iter().map(Tensor::shallow_clone).collect(),
        }))
    }
}
