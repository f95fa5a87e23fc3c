//! From rows of a query to documents.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use difflow_node_kit::Problem;
use difflow_schema::{Conversation, ConversationError};
use serde_json::{Map, Value};

use crate::config::Columns;

/// A document of the corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its text; of a conversation the contents, one below the other.
    pub text: String,
    /// The messages of a conversation, as JSON.
    pub messages: Option<String>,
}

impl Document {
    fn of(conversation: &Conversation) -> Self {
        Self { text: conversation.text(), messages: Some(conversation.to_json()) }
    }
}

/// Some rows of a query's result.
pub enum Rows {
    Texts(StringArray),
    Exchanges { prompts: StringArray, responses: StringArray },
    Messages(ArrayRef),
}

impl Rows {
    /// Those of a batch with these columns.
    ///
    /// # Errors
    /// When a column is of a type that cannot be read.
    pub fn of(batch: &RecordBatch, columns: &Columns) -> Result<Self, ArrowError> {
        let texts =
            |column: usize| Ok::<_, ArrowError>(cast(batch.column(column), &DataType::Utf8)?.as_string().clone());
        Ok(match columns {
            Columns::Text(_) => Self::Texts(texts(0)?),
            Columns::Exchange { .. } => Self::Exchanges { prompts: texts(0)?, responses: texts(1)? },
            Columns::Messages(_) => {
                let column = batch.column(0);
                let lists =
                    matches!(column.data_type(), DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_));
                Self::Messages(if lists { column.clone() } else { cast(column, &DataType::Utf8)? })
            }
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Exchanges { prompts, .. } => prompts.len(),
            Self::Messages(lists) => lists.len(),
        }
    }

    /// The document in a row; `None` where there is none: NULL and empty texts. A conversation that cannot be learned from is an error, for
    /// nobody would notice that it is missing.
    ///
    /// # Errors
    /// The key of the column that is wrong, and why.
    pub fn document(&self, row: usize) -> Result<Option<Document>, Wrong> {
        match self {
            Self::Texts(texts) if texts.is_null(row) || texts.value(row).is_empty() => Ok(None),
            Self::Texts(texts) => Ok(Some(Document { text: texts.value(row).to_owned(), messages: None })),
            Self::Exchanges { prompts, responses } => {
                let text = |array: &StringArray, key, what| {
                    let null = || Wrong { key, why: format!("the {what} is NULL; leave such rows out with SQL") };
                    (!array.is_null(row)).then(|| array.value(row).to_owned()).ok_or_else(null)
                };
                let prompt = text(prompts, "PROMPT_COLUMN", "prompt")?;
                let response = text(responses, "RESPONSE_COLUMN", "response")?;
                let conversation = Conversation::exchange(&prompt, &response).map_err(|_| {
                    let why =
                        "the response is empty; leave such rows out with SQL, such as WHERE length(trim(response)) > 0"
                            .to_owned();
                    Wrong { key: "RESPONSE_COLUMN", why }
                })?;
                Ok(Some(Document::of(&conversation)))
            }
            Self::Messages(lists) => {
                let conversation = match lists.as_string_opt::<i32>() {
                    _ if lists.is_null(row) => Err(ConversationError::Empty),
                    Some(texts) => Conversation::parse(texts.value(row)),
                    None => match value(lists, row) {
                        Value::Array(messages) => Conversation::of(messages),
                        other => Err(ConversationError::NotAList(other.to_string())),
                    },
                };
                let wrong = |e: ConversationError| Wrong { key: "MESSAGES_COLUMN", why: e.to_string() };
                conversation.map(|conversation| Some(Document::of(&conversation))).map_err(wrong)
            }
        }
    }
}

/// What is wrong with a row.
#[derive(Debug)]
pub struct Wrong {
    key: &'static str,
    why: String,
}

impl Wrong {
    /// As the problem of row `row` (counted from 0) of what `paths` gives.
    pub fn problem(self, columns: &Columns, row: u64, paths: &str) -> Problem {
        let column = match columns {
            Columns::Text(column) | Columns::Messages(column) => column,
            Columns::Exchange { prompt, .. } if self.key == "PROMPT_COLUMN" => prompt,
            Columns::Exchange { response, .. } => response,
        };
        let found = format!("column `{column}`, row {row} (counted from 0) of what is read from {paths}");
        Problem::new(self.key, found, self.why)
    }
}

/// A value of a column as JSON. Fields that are NULL are left out: a list of objects has every field that one of them has.
fn value(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    let items = |items: ArrayRef| (0..items.len()).map(|item| value(&items, item)).collect();
    match array.data_type() {
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let fields = columns.map(|(field, column)| (field.name().clone(), value(column, row)));
            Value::Object(fields.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        }
        DataType::List(_) => Value::Array(items(array.as_list::<i32>().value(row))),
        DataType::LargeList(_) => Value::Array(items(array.as_list::<i64>().value(row))),
        DataType::ListView(_) => Value::Array(items(array.as_list_view::<i32>().value(row))),
        DataType::Boolean => array.as_boolean().value(row).into(),
        kind if kind.is_integer() => {
            converted(array, row, &DataType::Int64, |one| one.as_primitive::<Int64Type>().value(0).into())
        }
        kind if kind.is_floating() => {
            converted(array, row, &DataType::Float64, |one| one.as_primitive::<Float64Type>().value(0).into())
        }
        _ => converted(array, row, &DataType::Utf8, |one| one.as_string::<i32>().value(0).into()),
    }
}

/// NULL for what has no such form.
fn converted(array: &ArrayRef, row: usize, kind: &DataType, read: fn(&ArrayRef) -> Value) -> Value {
    cast(&array.slice(row, 1), kind).ok().filter(|one| !one.is_null(0)).map_or(Value::Null, |one| read(&one))
}
