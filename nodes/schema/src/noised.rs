//! noiser → trainer.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, StructArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, UInt32Type};

use crate::columns::{Column, list_column, list_field};
use crate::{Message, SchemaError, Sequences};

/// One micro-batch with its noise. t and loss weight are one number a row, or one a position, row-major: a row that was noised at one
/// t says so once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Noised {
    /// The clean sequences x0.
    pub sequences: Sequences,
    /// Which tokens are masked in xt, flat `[rows, length]`.
    pub masked: Vec<bool>,
    /// t, `[rows]` or `[rows, length]`.
    pub t: Vec<f64>,
    /// Loss weight w(t), `[rows]` or `[rows, length]`.
    pub weight: Vec<f64>,
    /// For block diffusion: positions of a block of each row, the row's length where it is not cut. Empty otherwise.
    pub blocks: Vec<u32>,
}

impl Noised {
    /// t of a row: one number, or one a position.
    pub fn t_of(&self, row: usize) -> &[f64] {
        part(&self.t, self.sequences.rows, row)
    }

    /// Loss weight of a row: one number, or one a position.
    pub fn weight_of(&self, row: usize) -> &[f64] {
        part(&self.weight, self.sequences.rows, row)
    }

    fn shared_fields() -> Vec<Field> {
        let mut fields = Sequences::shared_fields();
        fields.push(list_field("masked", DataType::Boolean));
        fields
    }

    fn array(
        &self,
        message: &'static str,
        fields: Fields,
        noise: impl IntoIterator<Item = ArrayRef>,
    ) -> Result<StructArray, SchemaError> {
        let mut columns = self.sequences.shared_columns();
        columns.push(list_column(Arc::new(BooleanArray::from(self.masked.clone())), self.sequences.rows));
        columns.extend(noise);
        StructArray::try_new(fields, columns, None).map_err(|e| SchemaError::Arrow { message, problem: e.to_string() })
    }

    /// Reads a message whose columns `t` and `weight` are read by `numbers`.
    fn read(
        message: &'static str,
        array: &StructArray,
        numbers: impl Fn(&Column, &Sequences) -> Result<Vec<f64>, SchemaError>,
    ) -> Result<Self, SchemaError> {
        let sequences = Sequences::read(message, array)?;
        let masked_column = Column::find(message, array, "masked")?;
        let (masked, length) = masked_column.flag_rows()?;
        if length != sequences.length {
            return Err(masked_column.content(format!("rows of {length} values, tokens has {}", sequences.length)));
        }
        if let Some(at) = (0..masked.len()).find(|&i| masked[i] && !sequences.maskable[i]) {
            return Err(masked_column.content(format!("position {at} is masked but not maskable")));
        }
        let weight_column = Column::find(message, array, "weight")?;
        let weight = numbers(&weight_column, &sequences)?;
        if let Some(bad) = weight.iter().find(|w| !w.is_finite() || **w < 0.0) {
            return Err(weight_column.content(format!("loss weight {bad} is not a finite number ≥ 0")));
        }
        let t = numbers(&Column::find(message, array, "t")?, &sequences)?;
        Ok(Self { sequences, masked, t, weight, blocks: Vec::new() })
    }
}

/// The column of block sizes.
const BLOCK: &str = "block";

/// The values of one of `rows` rows.
fn part(values: &[f64], rows: usize, row: usize) -> &[f64] {
    let each = values.len() / rows.max(1);
    &values[row * each..(row + 1) * each]
}

impl Message for Noised {
    const NAME: &'static str = "noised/2";

    fn fields() -> Fields {
        let mut fields = Self::shared_fields();
        fields.extend(["t", "weight"].map(|name| list_field(name, DataType::Float64)));
        fields.push(Field::new(BLOCK, DataType::UInt32, false));
        Fields::from(fields)
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        let rows = self.sequences.rows;
        let list = |values: &[f64]| list_column(Arc::new(Float64Array::from(values.to_vec())), rows);
        let blocks = if self.blocks.is_empty() { vec![0; rows] } else { self.blocks.clone() };
        let noise = vec![list(&self.t), list(&self.weight), Arc::new(UInt32Array::from(blocks)) as ArrayRef];
        self.array(Self::NAME, Self::fields(), noise)
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        let read = Self::read(Self::NAME, array, |column, sequences| {
            let (values, each) = column.number_rows::<Float64Type>()?;
            if sequences.rows == 0 || each == 1 || each == sequences.length {
                return Ok(values);
            }
            let wanted = sequences.length;
            Err(column
                .content(format!("rows of {each} values, wanted 1, for the whole row, or {wanted}, one a position")))
        })?;
        // 0 for a row without blocks.
        let column = Column::find(Self::NAME, array, BLOCK)?;
        let blocks = column.numbers::<UInt32Type>()?;
        let cut = blocks.iter().filter(|&&size| size > 0).count();
        if ![0, blocks.len()].contains(&cut) {
            return Err(column.content(format!("{cut} of {} rows have blocks, wanted all or none", blocks.len())));
        }
        Ok(Self { blocks: if cut == 0 { Vec::new() } else { blocks }, ..read })
    }
}

/// A batch with one t and one loss weight a row, as batch transforms of plug-ins get it: `noised/1`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowNoised(pub Noised);

impl Message for RowNoised {
    const NAME: &'static str = "noised/1";

    fn fields() -> Fields {
        let mut fields = Noised::shared_fields();
        fields.extend(["t", "weight"].map(|name| Field::new(name, DataType::Float64, false)));
        Fields::from(fields)
    }

    fn to_array(&self) -> Result<StructArray, SchemaError> {
        let rows = self.0.sequences.rows;
        if !self.0.blocks.is_empty() {
            let problem = "blocks; batch transforms take rows without".to_owned();
            return Err(SchemaError::Content { message: Self::NAME, column: BLOCK, problem });
        }
        let column = |column: &'static str, values: &[f64]| -> Result<ArrayRef, SchemaError> {
            if values.len() == rows {
                return Ok(Arc::new(Float64Array::from(values.to_vec())));
            }
            let problem = format!("{} values for {rows} rows; batch transforms take one a row", values.len());
            Err(SchemaError::Content { message: Self::NAME, column, problem })
        };
        let noise = [column("t", &self.0.t)?, column("weight", &self.0.weight)?];
        self.0.array(Self::NAME, Self::fields(), noise)
    }

    fn from_array(array: &StructArray) -> Result<Self, SchemaError> {
        Noised::read(Self::NAME, array, |column, _| column.numbers::<Float64Type>()).map(Self)
    }
}
