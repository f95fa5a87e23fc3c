//! sampler → monitor: generated texts.

use std::sync::Arc;

use arrow::array::{Float64Array, StringArray, StructArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, UInt64Type};

use crate::columns::Column;
use crate::{Message, SchemaError};

/// One generated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Optimizer steps of the checkpoint that wrote it.
    pub step: u64,
    /// Number of the sample within its checkpoint and kind.
    pub index: u64,
    /// `unconditional` (from nothing), `answer` or `infill`.
    pub kind: String,
    /// What was given; for an infilling the text with each gap written as `[…]`. Empty for a text from nothing.
    pub prompt: String,
    /// The whole text, prompt included.
    pub text: String,
    /// `ok`, or what is wrong with the text or the gap; empty when nothing checks it.
    pub verdict: String,
    /// Forward passes of the model it took.
    pub nfe: u64,
    /// Seconds of the batch it was made in, divided by the batch's rows.
    pub seconds: f64,
}

/// Some samples.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples(pub Vec<Sample>);

impl Message for Samples {
    const NAME: &'static str = "samples/1";

    fn fields() -> Fields {
        Fields::from(vec![
            Field::new("step", DataType::UInt64, false),
            Field::new("index", DataType::UInt64, false),
            Field::new("kind", DataType::Utf8, false),
            Field::new("prompt", DataType::Utf8, false),
            Field::new("text", DataType::Utf8, false),
            Field::new("verdict", DataType::Utf8, false),
            Field::new("nfe", DataType::UInt64, false),
            Field::new("seconds", DataType::Float64, false),
        ])
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        let text = |get: fn(&Sample) -> &String| Arc::new(StringArray::from_iter_values(self.0.iter().map(get)));
        let number = |get: fn(&Sample) -> u64| Arc::new(UInt64Array::from_iter_values(self.0.iter().map(get)));
        Ok(StructArray::new(
            Self::fields(),
            vec![
                number(|s| s.step),
                number(|s| s.index),
                text(|s| &s.kind),
                text(|s| &s.prompt),
                text(|s| &s.text),
                text(|s| &s.verdict),
                number(|s| s.nfe),
                Arc::new(Float64Array::from_iter_values(self.0.iter().map(|s| s.seconds))),
            ],
            None,
        ))
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        use arrow::array::Array;
        let texts = |name| Column::find(Self::NAME, array, name)?.texts();
        let numbers = |name| Column::find(Self::NAME, array, name)?.numbers::<UInt64Type>();
        let (steps, indices, nfes) = (numbers("step")?, numbers("index")?, numbers("nfe")?);
        let seconds = Column::find(Self::NAME, array, "seconds")?.numbers::<Float64Type>()?;
        let (mut kinds, mut prompts, mut out, mut verdicts) =
            (texts("kind")?, texts("prompt")?, texts("text")?, texts("verdict")?);
        let samples = (0..array.len()).map(|row| Sample {
            step: steps[row],
            index: indices[row],
            kind: std::mem::take(&mut kinds[row]),
            prompt: std::mem::take(&mut prompts[row]),
            text: std::mem::take(&mut out[row]),
            verdict: std::mem::take(&mut verdicts[row]),
            nfe: nfes[row],
            seconds: seconds[row],
        });
        Ok(Self(samples.collect()))
    }
}
