//! `run.json`: the resolved configuration of every node, and what the run was made from and with.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::facts::TokenizerFacts;
use crate::lock::{self, LockError};
use crate::run::{RunDir, write_atomically};

/// How long a node waits for others to have written their parts: each has to reach the disk, which other work may keep busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// What run.json holds. Every node writes its own part; fields that this version does not know are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// difflow's version.
    pub difflow: String,
    /// git revision that the trainer was built from; `unknown` without git.
    pub revision: String,
    /// dora's name of the start that wrote the record first.
    pub start: String,
    /// The program of every node that wrote its keys. A record of an older difflow has none: there the configuration is what
    /// stood in the dataflow file, and keys without a node are the dataflow's.
    pub nodes: BTreeMap<String, String>,
    /// Every key of every node, defaults included, as `node.KEY`.
    pub configuration: BTreeMap<String, Value>,
    /// Versions of what difflow stands on: dora, libtorch.
    pub versions: BTreeMap<String, String>,
    /// Where the model was trained.
    pub device: String,
    /// sha256 of the base model's and the tokenizer's files.
    pub inputs: BTreeMap<String, String>,
    /// Fingerprint of the documents ([`crate::Facts::corpus`]); their files are in corpus.json.
    pub corpus: Option<String>,
    /// How texts became token ids.
    pub tokenizer: Option<TokenizerFacts>,
    /// The plug-ins that the run began with, by `node.KEY`.
    pub plugins: BTreeMap<String, Value>,
    /// Of another run, which this one began with a checkpoint of (`difflow run --fork`).
    pub fork: Option<Value>,
    /// Everything else.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The folder of the run cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another process has the record for too long.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The file is no record.
    #[error("{path} is not a run record: {source}; move the folder away")]
    Content {
        /// The file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl Record {
    /// That of the run. Returns `None` where there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read, or is no record.
    pub fn read(dir: &RunDir) -> Result<Option<Self>, RecordError> {
        let path = dir.record();
        match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => {
                let content = |source| RecordError::Content { path: path.display().to_string(), source };
                Ok(Some(serde_json::from_slice(&bytes?).map_err(content)?))
            }
        }
    }

    /// Changes the record of the run, or an empty one where there is none, while no other node does. What `change` returns as an
    /// error leaves it as it was.
    ///
    /// # Errors
    /// When the folder cannot be written to, the file is no record, or another process keeps it.
    pub fn update<R, E>(
        dir: &RunDir,
        change: impl FnOnce(&mut Self) -> Result<R, E>,
    ) -> Result<Result<R, E>, RecordError> {
        fs::create_dir_all(dir.root())?;
        let _lock = lock::take(&dir.record_lock(), PATIENCE)?;
        let mut record = Self::read(dir)?.unwrap_or_default();
        let result = change(&mut record);
        if result.is_ok() {
            write_atomically(&dir.record(), &serde_json::to_vec_pretty(&record).map_err(io::Error::from)?)?;
        }
        Ok(result)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Eight nodes start together and each writes its part.
    #[test]
    fn parts_written_at_the_same_time_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path(), "r");
        std::thread::scope(|scope| {
            for node in 0..8 {
                let dir = &dir;
                scope.spawn(move || {
                    Record::update(dir, |record| {
                        record.configuration.insert(format!("node{node}.KEY"), node.into());
                        Ok::<(), ()>(())
                    })
                });
            }
        });
        assert_eq!(Record::read(&dir).unwrap().unwrap().configuration.len(), 8);
    }

    /// A difflow that is newer than this one may have written more.
    #[test]
    fn fields_that_are_not_known_stay() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path(), "r");
        fs::create_dir_all(dir.root()).unwrap();
        fs::write(dir.record(), r#"{"difflow": "9", "asides": [1]}"#).unwrap();
        Record::update(&dir, |record| {
            record.device = "cpu".into();
            Ok::<(), ()>(())
        })
        .unwrap()
        .unwrap();
        let record = Record::read(&dir).unwrap().unwrap();
        assert_eq!((record.difflow.as_str(), record.more["asides"][0].as_u64()), ("9", Some(1)));
        assert!(Record::update(&dir, |_| Err::<(), u8>(3)).unwrap().is_err());
    }
}
