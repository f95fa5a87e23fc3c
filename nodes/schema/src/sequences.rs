//! tokenizer → noiser.

use std::sync::Arc;

use arrow::array::{BooleanArray, StructArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Fields, UInt32Type};

use crate::columns::{Column, list_column, list_field};
use crate::{Message, SchemaError};

/// The document id of padding.
pub const PADDING: u32 = u32::MAX;

/// One micro-batch of packed sequences. All fields are flat, row-major, `[rows, length]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sequences {
    /// Sequences in the batch.
    pub rows: usize,
    /// Tokens in a sequence, L.
    pub length: usize,
    /// Clean token ids x0.
    pub tokens: Vec<u32>,
    /// Which document of its row a token belongs to, counted from 0; [`PADDING`] for padding.
    pub documents: Vec<u32>,
    /// Whether a token may be masked: false for the anchor of a document and for padding.
    pub maskable: Vec<bool>,
}

impl Sequences {
    /// The columns shared with [`crate::Noised`].
    pub(crate) fn shared_fields() -> Vec<Field> {
        vec![
            list_field("tokens", DataType::UInt32),
            list_field("documents", DataType::UInt32),
            list_field("maskable", DataType::Boolean),
        ]
    }

    pub(crate) fn shared_columns(&self) -> Vec<arrow::array::ArrayRef> {
        vec![
            list_column(Arc::new(UInt32Array::from(self.tokens.clone())), self.rows),
            list_column(Arc::new(UInt32Array::from(self.documents.clone())), self.rows),
            list_column(Arc::new(BooleanArray::from(self.maskable.clone())), self.rows),
        ]
    }

    pub(crate) fn read(message: &'static str, array: &StructArray) -> Result<Self, SchemaError> {
        use arrow::array::Array;
        let (tokens, length) = Column::find(message, array, "tokens")?.number_rows::<UInt32Type>()?;
        let documents = Column::find(message, array, "documents")?;
        let maskable = Column::find(message, array, "maskable")?;
        let same = |column: &Column, found: usize| {
            if found == length {
                Ok(())
            } else {
                Err(column.content(format!("rows of {found} values, tokens has {length}")))
            }
        };
        let (document_ids, documents_length) = documents.number_rows::<UInt32Type>()?;
        same(&documents, documents_length)?;
        let (maskable_flags, maskable_length) = maskable.flag_rows()?;
        same(&maskable, maskable_length)?;
        Ok(Self { rows: array.len(), length, tokens, documents: document_ids, maskable: maskable_flags })
    }
}

impl Message for Sequences {
    const NAME: &'static str = "sequences/1";

    fn fields() -> Fields {
        Fields::from(Self::shared_fields())
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        StructArray::try_new(Self::fields(), self.shared_columns(), None)
            .map_err(|e| SchemaError::Arrow { message: Self::NAME, problem: e.to_string() })
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        Self::read(Self::NAME, array)
    }
}
