//! trainer → checkpointer (written) and checkpointer → sampler, evaluator (published). Weights never travel on an edge.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{StringArray, StructArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Fields, UInt64Type};

use crate::columns::Column;
use crate::manifest::{CheckpointError, Manifest};
use crate::{Message, SchemaError};

/// A checkpoint directory on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Absolute path of the directory.
    pub path: String,
    /// sha256 of its manifest, in hex.
    pub sha256: String,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Training tokens seen so far.
    pub tokens_seen: u64,
}

impl Checkpoint {
    /// Returns the message about the checkpoint in `folder`, whose files are all as they were written. Errors if one is not.
    pub fn verified(folder: &Path) -> Result<Self, CheckpointError> {
        let (manifest, sha256) = Manifest::verify(folder)?;
        let absolute = std::path::absolute(folder);
        let path = absolute.map_err(|source| CheckpointError::Read { path: folder.to_owned(), source })?;
        let (step, bytes, tokens_seen) = (manifest.step, manifest.bytes(), manifest.tokens_seen);
        Ok(Self { step, path: path.display().to_string(), sha256, bytes, tokens_seen })
    }
}

impl Message for Checkpoint {
    const NAME: &'static str = "checkpoint/1";

    fn fields() -> Fields {
        Fields::from(vec![
            Field::new("step", DataType::UInt64, false),
            Field::new("path", DataType::Utf8, false),
            Field::new("sha256", DataType::Utf8, false),
            Field::new("bytes", DataType::UInt64, false),
            Field::new("tokens_seen", DataType::UInt64, false),
        ])
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        Ok(StructArray::new(
            Self::fields(),
            vec![
                Arc::new(UInt64Array::from(vec![self.step])),
                Arc::new(StringArray::from(vec![self.path.as_str()])),
                Arc::new(StringArray::from(vec![self.sha256.as_str()])),
                Arc::new(UInt64Array::from(vec![self.bytes])),
                Arc::new(UInt64Array::from(vec![self.tokens_seen])),
            ],
            None,
        ))
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        use arrow::array::Array;
        let step = Column::find(Self::NAME, array, "step")?;
        if array.len() != 1 {
            return Err(step.content(format!("{} rows, wanted one checkpoint", array.len())));
        }
        let number = |name| -> Result<u64, SchemaError> {
            Ok(Column::find(Self::NAME, array, name)?.numbers::<UInt64Type>()?[0])
        };
        let text =
            |name| -> Result<String, SchemaError> { Ok(Column::find(Self::NAME, array, name)?.texts()?.remove(0)) };
        Ok(Self {
            step: number("step")?,
            path: text("path")?,
            sha256: text("sha256")?,
            bytes: number("bytes")?,
            tokens_seen: number("tokens_seen")?,
        })
    }
}
