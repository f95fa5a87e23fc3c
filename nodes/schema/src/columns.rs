//! Reading and writing the columns that messages are made of.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, FieldRef};

use crate::SchemaError;

/// The field of a list column: rows of equal length without nulls.
pub fn list_field(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(item_field(item)), false)
}

fn item_field(item: DataType) -> FieldRef {
    Arc::new(Field::new_list_field(item, false))
}

/// A list column of `rows` rows from one flat array.
pub fn list_column(values: ArrayRef, rows: usize) -> ArrayRef {
    let length = values.len().checked_div(rows).unwrap_or(0);
    let offsets = OffsetBuffer::new(ScalarBuffer::from_iter((0..=rows).map(|row| (row * length) as i32)));
    Arc::new(ListArray::new(item_field(values.data_type().clone()), offsets, values, None))
}

/// One column of a message, with the names that errors need.
pub struct Column<'a> {
    message: &'static str,
    name: &'static str,
    array: &'a ArrayRef,
}

impl<'a> Column<'a> {
    /// Finds column `name`; nulls are refused, no message has any.
    pub fn find(message: &'static str, array: &'a StructArray, name: &'static str) -> Result<Self, SchemaError> {
        let array = array.column_by_name(name).ok_or(SchemaError::Missing { message, column: name })?;
        let column = Self { message, name, array };
        if array.null_count() > 0 {
            Err(column.content(format!("{} nulls, wanted none", array.null_count())))
        } else {
            Ok(column)
        }
    }

    /// The error for content that breaks a rule.
    pub fn content(&self, problem: String) -> SchemaError {
        SchemaError::Content { message: self.message, column: self.name, problem }
    }

    fn wrong_type(&self, wanted: &DataType) -> SchemaError {
        SchemaError::Type {
            message: self.message,
            column: self.name,
            found: self.array.data_type().to_string(),
            wanted: wanted.to_string(),
        }
    }

    /// The values of a numeric column.
    pub fn numbers<T: ArrowPrimitiveType>(&self) -> Result<Vec<T::Native>, SchemaError> {
        primitive::<T>(self.array).ok_or_else(|| self.wrong_type(&T::DATA_TYPE))
    }

    /// The values of a text column.
    pub fn texts(&self) -> Result<Vec<String>, SchemaError> {
        let texts = self.array.as_string_opt::<i32>().ok_or_else(|| self.wrong_type(&DataType::Utf8))?;
        Ok(texts.iter().flatten().map(str::to_owned).collect())
    }

    /// The flat values of a list column of numbers and the length of its rows.
    pub fn number_rows<T: ArrowPrimitiveType>(&self) -> Result<(Vec<T::Native>, usize), SchemaError> {
        let (values, length) = self.rows(&T::DATA_TYPE)?;
        let flat = primitive::<T>(&values).ok_or_else(|| self.wrong_type(&T::DATA_TYPE))?;
        Ok((flat, length))
    }

    /// The flat values of a list column of booleans and the length of its rows.
    pub fn flag_rows(&self) -> Result<(Vec<bool>, usize), SchemaError> {
        let (values, length) = self.rows(&DataType::Boolean)?;
        let flags = values.as_boolean_opt().ok_or_else(|| self.wrong_type(&DataType::Boolean))?;
        Ok((flags.values().iter().collect(), length))
    }

    fn rows(&self, item: &DataType) -> Result<(ArrayRef, usize), SchemaError> {
        let list = self
            .array
            .as_list_opt::<i32>()
            .ok_or_else(|| self.wrong_type(&DataType::List(item_field(item.clone()))))?;
        let offsets = list.offsets();
        let (first, last) = (offsets[0] as usize, offsets[list.len()] as usize);
        let length = (last - first).checked_div(list.len()).unwrap_or(0);
        if let Some(row) = (0..list.len()).find(|&row| list.value_length(row) as usize != length) {
            return Err(
                self.content(format!("row {row} has {} values, the rows before it {length}", list.value_length(row)))
            );
        }
        let values = list.values().slice(first, last - first);
        if values.null_count() > 0 {
            return Err(self.content(format!("{} nulls inside the rows, wanted none", values.null_count())));
        }
        Ok((values, length))
    }
}

fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef) -> Option<Vec<T::Native>> {
    array.as_any().downcast_ref::<PrimitiveArray<T>>().map(|array| array.values().to_vec())
}
