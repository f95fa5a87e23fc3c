//! Requests from downstream: the only thing that makes a data stage send.

use std::sync::Arc;

use arrow::array::{StructArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Fields, UInt32Type, UInt64Type};

use crate::columns::Column;
use crate::{Message, SchemaError};

/// "Send batches `next_seq .. next_seq + count`." Asking again for the same batches is allowed and gives the same batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// First batch wanted.
    pub next_seq: u64,
    /// How many, at least 1.
    pub count: u32,
}

impl Message for Demand {
    const NAME: &'static str = "demand/1";

    fn fields() -> Fields {
        Fields::from(vec![
            Field::new("next_seq", DataType::UInt64, false),
            Field::new("count", DataType::UInt32, false),
        ])
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        Ok(StructArray::new(
            Self::fields(),
            vec![Arc::new(UInt64Array::from(vec![self.next_seq])), Arc::new(UInt32Array::from(vec![self.count]))],
            None,
        ))
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        let next_seq = Column::find(Self::NAME, array, "next_seq")?;
        let count = Column::find(Self::NAME, array, "count")?;
        let (next_seqs, counts) = (next_seq.numbers::<UInt64Type>()?, count.numbers::<UInt32Type>()?);
        match (next_seqs.as_slice(), counts.as_slice()) {
            (&[next_seq], &[count]) if count > 0 && next_seq.checked_add(u64::from(count)).is_some() => {
                Ok(Self { next_seq, count })
            }
            _ => Err(count.content(format!("{next_seqs:?}, {counts:?} is not one demand for at least one batch"))),
        }
    }
}
