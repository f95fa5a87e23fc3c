//! trainer, evaluator, sampler → monitor: named numbers.

use std::sync::Arc;

use arrow::array::{Float64Array, StringArray, StructArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, UInt64Type};

use crate::columns::Column;
use crate::{Message, SchemaError};

/// One number of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Optimizer steps done when it was measured.
    pub step: u64,
    /// Its name, for example `loss`; docs/EDGES.md lists them with units.
    pub name: String,
    /// Its value; NaN and infinity are allowed, they are news.
    pub value: f64,
}

/// Some metrics.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics(pub Vec<Metric>);

impl Metrics {
    /// Metrics of one step from (name, value) pairs.
    pub fn of_step<'a>(step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        Self(values.into_iter().map(|(name, value)| Metric { step, name: name.to_owned(), value }).collect())
    }
}

impl Message for Metrics {
    const NAME: &'static str = "metrics/1";

    fn fields() -> Fields {
        Fields::from(vec![
            Field::new("step", DataType::UInt64, false),
            Field::new("name", DataType::Utf8, false),
            Field::new("value", DataType::Float64, false),
        ])
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        Ok(StructArray::new(
            Self::fields(),
            vec![
                Arc::new(UInt64Array::from_iter_values(self.0.iter().map(|m| m.step))),
                Arc::new(StringArray::from_iter_values(self.0.iter().map(|m| &m.name))),
                Arc::new(Float64Array::from_iter_values(self.0.iter().map(|m| m.value))),
            ],
            None,
        ))
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        let steps = Column::find(Self::NAME, array, "step")?.numbers::<UInt64Type>()?;
        let names = Column::find(Self::NAME, array, "name")?.texts()?;
        let values = Column::find(Self::NAME, array, "value")?.numbers::<Float64Type>()?;
        let rows = steps.into_iter().zip(names).zip(values);
        Ok(Self(rows.map(|((step, name), value)| Metric { step, name, value }).collect()))
    }
}
