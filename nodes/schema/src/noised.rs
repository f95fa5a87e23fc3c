//! noiser → trainer.

use std::sync::Arc;

use arrow::array::{BooleanArray, Float64Array, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Float64Type};

use crate::columns::{Column, list_column, list_field};
use crate::{Message, SchemaError, Sequences};

/// One micro-batch with its noise.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Noised {
    /// The clean sequences x0.
    pub sequences: Sequences,
    /// Which tokens are masked in xt, flat `[rows, length]`.
    pub masked: Vec<bool>,
    /// t of each row.
    pub t: Vec<f64>,
    /// Loss weight w(t) of each row.
    pub weight: Vec<f64>,
}

impl Message for Noised {
    const NAME: &'static str = "noised/1";

    fn fields() -> Fields {
        let mut fields = Sequences::shared_fields();
        fields.push(list_field("masked", DataType::Boolean));
        fields.push(Field::new("t", DataType::Float64, false));
        fields.push(Field::new("weight", DataType::Float64, false));
        Fields::from(fields)
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        let mut columns = self.sequences.shared_columns();
        columns.push(list_column(Arc::new(BooleanArray::from(self.masked.clone())), self.sequences.rows));
        columns.push(Arc::new(Float64Array::from(self.t.clone())));
        columns.push(Arc::new(Float64Array::from(self.weight.clone())));
        StructArray::try_new(Self::fields(), columns, None)
            .map_err(|e| SchemaError::Arrow { message: Self::NAME, problem: e.to_string() })
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        let sequences = Sequences::read(Self::NAME, array)?;
        let masked_column = Column::find(Self::NAME, array, "masked")?;
        let (masked, length) = masked_column.flag_rows()?;
        if length != sequences.length {
            return Err(masked_column.content(format!("rows of {length} values, tokens has {}", sequences.length)));
        }
        if let Some(at) = (0..masked.len()).find(|&i| masked[i] && !sequences.maskable[i]) {
            return Err(masked_column.content(format!("position {at} is masked but not maskable")));
        }
        let weight_column = Column::find(Self::NAME, array, "weight")?;
        let weight = weight_column.numbers::<Float64Type>()?;
        if let Some(bad) = weight.iter().find(|w| !w.is_finite() || **w < 0.0) {
            return Err(weight_column.content(format!("loss weight {bad} is not a finite number ≥ 0")));
        }
        Ok(Self { sequences, masked, t: Column::find(Self::NAME, array, "t")?.numbers::<Float64Type>()?, weight })
    }
}
