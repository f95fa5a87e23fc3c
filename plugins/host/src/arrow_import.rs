//! A plug-in's array in over the C Data Interface, by copy: what it gave may lie in memory that goes away with `release`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, ListArray, PrimitiveArray, StringArray, StructArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Fields, Float64Type, UInt32Type, UInt64Type};
use difflow_plugin_abi::ArrowArray;

/// Copies a struct array with these fields.
///
/// # Errors
/// What does not fit the fields.
///
/// # Safety
/// `array` is a valid array of the C Data Interface whose type is a struct of `fields`.
pub unsafe fn import(array: &ArrowArray, fields: &Fields) -> Result<StructArray, String> {
    let rows = size(array.length)?;
    if size(array.n_children)? != fields.len() {
        return Err(format!("{} columns instead of {}", array.n_children, fields.len()));
    }
    let offset = size(array.offset)?;
    let columns = fields.iter().enumerate().map(|(i, field)| {
        // SAFETY: there are as many children as fields.
        let child = unsafe { &**array.children.add(i) };
        if size(child.length)? < offset + rows {
            return Err(format!("column `{}` has {} rows, the batch {rows}", field.name(), child.length));
        }
        // SAFETY: the caller's contract.
        let column = unsafe { column(child, offset, rows, field.data_type()) };
        column.map_err(|problem| format!("column `{}`: {problem}", field.name()))
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    StructArray::try_new_with_length(fields.clone(), columns, None, rows).map_err(|e| e.to_string())
}

fn size(number: i64) -> Result<usize, String> {
    usize::try_from(number).map_err(|_| format!("a negative size ({number})"))
}

/// Rows `from .. from + rows` of an array (counted after the array's own offset).
unsafe fn column(array: &ArrowArray, from: usize, rows: usize, data_type: &DataType) -> Result<ArrayRef, String> {
    let buffers = match data_type {
        DataType::Utf8 => 3,
        _ => 2,
    };
    if size(array.n_buffers)? != buffers || (rows > 0 && array.buffers.is_null()) {
        return Err(format!("{} buffers, wanted {buffers} for {data_type}", array.n_buffers));
    }
    let from = from + size(array.offset)?;
    // SAFETY: buffers, children and their lengths are those of the type, by the caller's contract.
    unsafe {
        if array.null_count != 0 && !(*array.buffers).is_null() {
            return Err("it has nulls".into());
        }
        Ok(match data_type {
            DataType::Boolean => Arc::new(BooleanArray::from(bits(array, from, rows))),
            DataType::UInt32 => Arc::new(numbers::<UInt32Type>(array, from, rows)),
            DataType::UInt64 => Arc::new(numbers::<UInt64Type>(array, from, rows)),
            DataType::Float64 => Arc::new(numbers::<Float64Type>(array, from, rows)),
            DataType::Utf8 => {
                let offsets = offsets(array, from, rows)?;
                let end = offsets.last().copied().unwrap_or(0) as usize;
                let bytes = values::<u8>(array, 2, 0, end);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), None).map_err(|e| e.to_string())?)
            }
            DataType::List(item) => {
                let offsets = offsets(array, from, rows)?;
                let end = offsets.last().copied().unwrap_or(0) as usize;
                if size(array.n_children)? != 1 {
                    return Err(format!("{} children of a list, wanted 1", array.n_children));
                }
                let child = &**array.children;
                if size(child.length)? < end {
                    return Err(format!("its offsets reach to {end}, its items end at {}", child.length));
                }
                let items = column(child, 0, end, item.data_type())?;
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(ListArray::try_new(item.clone(), offsets, items, None).map_err(|e| e.to_string())?)
            }
            other => return Err(format!("type {other} is in no message of difflow")),
        })
    }
}

unsafe fn values<T: Copy>(array: &ArrowArray, buffer: usize, from: usize, count: usize) -> Vec<T> {
    // SAFETY: the caller says that the buffer holds `from + count` values.
    unsafe {
        let start = (*array.buffers.add(buffer)).cast::<T>();
        (from..from + count).map(|at| start.add(at).read_unaligned()).collect()
    }
}

unsafe fn numbers<T: ArrowPrimitiveType>(array: &ArrowArray, from: usize, rows: usize) -> PrimitiveArray<T> {
    // SAFETY: the caller's contract.
    PrimitiveArray::new(ScalarBuffer::from(unsafe { values::<T::Native>(array, 1, from, rows) }), None)
}

unsafe fn bits(array: &ArrowArray, from: usize, rows: usize) -> Vec<bool> {
    // SAFETY: the caller says that the buffer holds `from + rows` bits.
    let bytes = unsafe { values::<u8>(array, 1, from / 8, (from % 8 + rows).div_ceil(8)) };
    (from % 8..from % 8 + rows).map(|at| bytes[at / 8] >> (at % 8) & 1 == 1).collect()
}

/// `rows + 1` rising offsets.
unsafe fn offsets(array: &ArrowArray, from: usize, rows: usize) -> Result<Vec<i32>, String> {
    if rows == 0 {
        return Ok(vec![0]);
    }
    // SAFETY: the caller says that the buffer holds them.
    let offsets = unsafe { values::<i32>(array, 1, from, rows + 1) };
    let rising = offsets[0] >= 0 && offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if rising { Ok(offsets) } else { Err("its offsets do not rise".into()) }
}

/// Releases a plug-in's array when it goes out of scope.
pub struct Received(pub ArrowArray);

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(release) = self.0.release {
            // SAFETY: the plug-in gave the array away; this is the one release.
            unsafe { release(&raw mut self.0) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_schema::{Documents, Message, Noised, RowNoised, Sequences};

    use super::*;
    use crate::arrow_export::ExportedArray;

    /// Out and in again, with rows that begin in the middle of a byte.
    #[test]
    fn every_message_survives_the_way_over_the_boundary() {
        let flags: Vec<bool> = (0..33).map(|i| i % 3 == 0).collect();
        let sequences = Sequences {
            rows: 3,
            length: 11,
            tokens: (0..33).collect(),
            documents: vec![1; 33],
            maskable: vec![true; 33],
        };
        let noised = Noised { sequences, masked: flags, t: vec![0.1, 0.2, 0.3], weight: vec![1.0, 2.0, 3.0] };
        let documents = Documents { doc: vec![4, 5, 6], text: vec!["".into(), "zwei".into(), "αβγ".into()] };
        for array in [RowNoised(noised).to_array().unwrap(), documents.to_array().unwrap()] {
            for (from, rows) in [(0, 3), (1, 2), (2, 1), (1, 0)] {
                let part = array.slice(from, rows);
                let exported = ExportedArray::new(&part);
                let back = unsafe { import(&exported.root, part.fields()) }.unwrap();
                assert_eq!(back, part, "rows {from} + {rows}");
            }
        }
    }
}
