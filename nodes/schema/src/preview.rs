//! trainer → monitor: one row of the current batch and the attention pattern of that step, for display.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, Float64Array, StructArray, UInt8Array, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, UInt8Type, UInt32Type, UInt64Type};

use crate::columns::{Column, list_column, list_field};
use crate::{Message, SchemaError};

/// The longest side of [`Preview::attention`].
pub const ATTENTION_SIDE: usize = 64;

/// What the trainer is looking at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Preview {
    /// Optimizer steps done before this one.
    pub step: u64,
    /// t of the row.
    pub t: f64,
    /// Loss weight of the row.
    pub weight: f64,
    /// Share of the non-causal attention entries that is open.
    pub attn_mask_ratio: f64,
    /// Tokens of a whole row, L.
    pub length: u64,
    /// Positions of a block of the row: that of all of it where it is not cut. Where it is, the pattern is that of `[x_t ; x_0]`, 2L
    /// positions.
    pub block: u64,
    /// Clean token ids of the row without its padding, the first of them when there are many.
    pub tokens: Vec<u32>,
    /// Which of them are masked.
    pub masked: Vec<bool>,
    /// The pattern made smaller, row by row, `[side, side]`: of each square, the share that is visible, 255 for all. The row is
    /// the query's position.
    pub attention: Vec<u8>,
}

impl Preview {
    /// The pattern's side.
    pub fn side(&self) -> usize {
        self.attention.len().isqrt()
    }

    /// `visible[i * length + j]` made smaller, as [`Preview::attention`] wants it.
    pub fn shrink(visible: &[bool], length: usize) -> Vec<u8> {
        let side = length.min(ATTENTION_SIDE);
        // Squares of a position of either side; they differ by at most one in size.
        let edge = |n: usize| n * length / side.max(1);
        let mut cells = Vec::with_capacity(side * side);
        for (row, column) in (0..side * side).map(|cell| (cell / side, cell % side)) {
            let columns = edge(column)..edge(column + 1);
            let open = |i: usize| visible[i * length..][columns.clone()].iter().filter(|&&on| on).count();
            let rows = edge(row)..edge(row + 1);
            let all = rows.len() * columns.len();
            cells.push((rows.map(open).sum::<usize>() * 255 / all.max(1)) as u8);
        }
        cells
    }
}

impl Message for Preview {
    const NAME: &'static str = "preview/1";

    fn fields() -> Fields {
        Fields::from(vec![
            Field::new("step", DataType::UInt64, false),
            Field::new("t", DataType::Float64, false),
            Field::new("weight", DataType::Float64, false),
            Field::new("attn_mask_ratio", DataType::Float64, false),
            Field::new("length", DataType::UInt64, false),
            Field::new("block", DataType::UInt64, false),
            list_field("tokens", DataType::UInt32),
            list_field("masked", DataType::Boolean),
            list_field("attention", DataType::UInt8),
        ])
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        let number = |value: f64| Arc::new(Float64Array::from(vec![value]));
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(UInt64Array::from(vec![self.step])),
            number(self.t),
            number(self.weight),
            number(self.attn_mask_ratio),
            Arc::new(UInt64Array::from(vec![self.length])),
            Arc::new(UInt64Array::from(vec![self.block])),
            list_column(Arc::new(UInt32Array::from(self.tokens.clone())), 1),
            list_column(Arc::new(BooleanArray::from(self.masked.clone())), 1),
            list_column(Arc::new(UInt8Array::from(self.attention.clone())), 1),
        ];
        StructArray::try_new(Self::fields(), columns, None)
            .map_err(|e| SchemaError::Arrow { message: Self::NAME, problem: e.to_string() })
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        let column = |name| Column::find(Self::NAME, array, name);
        let step = column("step")?;
        if array.len() != 1 {
            return Err(step.content(format!("{} rows, wanted 1", array.len())));
        }
        let number = |name| Ok::<f64, SchemaError>(column(name)?.numbers::<Float64Type>()?[0]);
        let whole = |name| Ok::<u64, SchemaError>(column(name)?.numbers::<UInt64Type>()?[0]);
        let (tokens, _) = column("tokens")?.number_rows::<UInt32Type>()?;
        let (masked, _) = column("masked")?.flag_rows()?;
        if masked.len() != tokens.len() {
            return Err(column("masked")?.content(format!("{} values, tokens has {}", masked.len(), tokens.len())));
        }
        let (attention, cells) = column("attention")?.number_rows::<UInt8Type>()?;
        let side = cells.isqrt();
        if side * side != cells || side > ATTENTION_SIDE {
            let wanted = format!("a square of a side up to {ATTENTION_SIDE}");
            return Err(column("attention")?.content(format!("{cells} values, wanted {wanted}")));
        }
        Ok(Self {
            step: whole("step")?,
            t: number("t")?,
            weight: number("weight")?,
            attn_mask_ratio: number("attn_mask_ratio")?,
            length: whole("length")?,
            block: whole("block")?,
            tokens,
            masked,
            attention,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn preview() -> Preview {
        Preview {
            step: 7,
            t: 0.5,
            weight: 2.0,
            attn_mask_ratio: 0.25,
            length: 9,
            block: 4,
            tokens: vec![1, 2, 3],
            masked: vec![false, true, false],
            attention: vec![255, 0, 255, 255],
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let sent = preview();
        assert_eq!(Preview::from_array(&sent.to_array().unwrap()).unwrap(), sent);
        let empty = Preview::default();
        assert_eq!(Preview::from_array(&empty.to_array().unwrap()).unwrap(), empty);
    }

    /// The page would draw rubbish, or read past the end.
    #[test]
    fn a_row_that_does_not_fit_is_refused() {
        for (wrong, column) in [
            (Preview { masked: vec![true], ..preview() }, "masked"),
            (Preview { attention: vec![0; 5], ..preview() }, "attention"),
            (Preview { attention: vec![0; 65 * 65], ..preview() }, "attention"),
        ] {
            let error = Preview::from_array(&wrong.to_array().unwrap()).unwrap_err().to_string();
            assert!(error.contains(column), "{error}");
        }
    }

    #[test]
    fn a_pattern_is_made_smaller_by_shares() {
        let causal = |length: usize| -> Vec<bool> { (0..length * length).map(|n| n % length <= n / length).collect() };
        assert_eq!(Preview::shrink(&causal(2), 2), [255, 0, 255, 255]);
        let small = Preview::shrink(&causal(128), 128);
        assert_eq!(small.len(), 64 * 64);
        // A square on the diagonal has 3 of its 4 entries on or below it.
        assert_eq!((small[0], small[1], small[64]), (191, 0, 255));
        // Sides that do not divide leave nothing out.
        assert!(Preview::shrink(&vec![true; 100 * 100], 100).iter().all(|&cell| cell == 255));
        assert!(Preview::shrink(&[], 0).is_empty());
    }
}
