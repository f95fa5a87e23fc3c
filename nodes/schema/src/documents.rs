//! corpus → tokenizer.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, StructArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Fields, UInt64Type};

use crate::columns::Column;
use crate::{Message, SchemaError};

/// Some documents, in corpus order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Documents {
    /// Position of each document in the corpus order, counted from 0.
    pub doc: Vec<u64>,
    /// The texts; of a conversation its contents, one below the other.
    pub text: Vec<String>,
    /// The messages of each document as JSON ([`crate::Conversation`]), where documents are conversations of which answers are learned.
    /// Empty where they are plain texts.
    pub messages: Vec<String>,
}

/// Plain documents: what batch transforms of plug-ins get, and what corpora sent before there were conversations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlainDocuments {
    /// As [`Documents::doc`].
    pub doc: Vec<u64>,
    /// As [`Documents::text`].
    pub text: Vec<String>,
}

const MESSAGES: &str = "messages";

fn plain_fields() -> Vec<Field> {
    vec![Field::new("doc", DataType::UInt64, false), Field::new("text", DataType::Utf8, false)]
}

fn texts(values: &[String]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn array(message: &'static str, fields: Fields, columns: Vec<ArrayRef>) -> Result<StructArray, SchemaError> {
    StructArray::try_new(fields, columns, None).map_err(|e| SchemaError::Arrow { message, problem: e.to_string() })
}

impl Message for Documents {
    const NAME: &'static str = "documents/2";

    fn fields() -> Fields {
        let mut fields = plain_fields();
        fields.push(Field::new(MESSAGES, DataType::Utf8, false));
        Fields::from(fields)
    }

    fn reads(name: &str) -> bool {
        [Self::NAME, PlainDocuments::NAME].contains(&name)
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        let messages =
            if self.messages.is_empty() { vec![String::new(); self.doc.len()] } else { self.messages.clone() };
        let columns =
            vec![Arc::new(UInt64Array::from(self.doc.clone())) as ArrayRef, texts(&self.text), texts(&messages)];
        array(Self::NAME, Self::fields(), columns)
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        let PlainDocuments { doc, text } = read(Self::NAME, array)?;
        if array.column_by_name(MESSAGES).is_none() {
            return Ok(Self { doc, text, messages: Vec::new() });
        }
        let column = Column::find(Self::NAME, array, MESSAGES)?;
        let messages = column.texts()?;
        // Empty for a plain text.
        let conversations = messages.iter().filter(|messages| !messages.is_empty()).count();
        if ![0, messages.len()].contains(&conversations) {
            let found =
                format!("{conversations} of {} documents are conversations, wanted all or none", messages.len());
            return Err(column.content(found));
        }
        Ok(Self { doc, text, messages: if conversations == 0 { Vec::new() } else { messages } })
    }
}

impl Message for PlainDocuments {
    const NAME: &'static str = "documents/1";

    fn fields() -> Fields {
        Fields::from(plain_fields())
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        let columns = vec![Arc::new(UInt64Array::from(self.doc.clone())) as ArrayRef, texts(&self.text)];
        array(Self::NAME, Self::fields(), columns)
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        read(Self::NAME, array)
    }
}

fn read(message: &'static str, array: &StructArray) -> Result<PlainDocuments, SchemaError> {
    Ok(PlainDocuments {
        doc: Column::find(message, array, "doc")?.numbers::<UInt64Type>()?,
        text: Column::find(message, array, "text")?.texts()?,
    })
}
