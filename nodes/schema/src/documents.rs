//! corpus → tokenizer.

use std::sync::Arc;

use arrow::array::{StringArray, StructArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Fields, UInt64Type};

use crate::columns::Column;
use crate::{Message, SchemaError};

/// Some documents, in corpus order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Documents {
    /// Position of each document in the corpus order, counted from 0.
    pub doc: Vec<u64>,
    /// The texts.
    pub text: Vec<String>,
}

impl Message for Documents {
    const NAME: &'static str = "documents/1";

    fn fields() -> Fields {
        Fields::from(vec![Field::new("doc", DataType::UInt64, false), Field::new("text", DataType::Utf8, false)])
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        let text = StringArray::from_iter_values(&self.text);
        StructArray::try_new(Self::fields(), vec![Arc::new(UInt64Array::from(self.doc.clone())), Arc::new(text)], None)
            .map_err(|e| SchemaError::Arrow { message: Self::NAME, problem: e.to_string() })
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        Ok(Self {
            doc: Column::find(Self::NAME, array, "doc")?.numbers::<UInt64Type>()?,
            text: Column::find(Self::NAME, array, "text")?.texts()?,
        })
    }
}
