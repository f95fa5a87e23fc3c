//! Arrow C Data Interface → [`Batch`], by copying: batches have a few MiB at most.

use std::ffi::{CStr, c_void};

use crate::abi::{ArrowArray, ArrowSchema};
use crate::batch::{Batch, Column, Field, Kind};
use crate::error::Error;

/// The columns of a struct schema.
///
/// # Safety
/// `schema` is a valid schema of the C Data Interface.
pub(crate) unsafe fn fields(schema: *const ArrowSchema) -> Result<Vec<Field>, Error> {
    // SAFETY: the caller's contract, which holds for children as well.
    unsafe {
        if format(schema)? != "+s" {
            return Err(Error::incompatible("the batch is not a struct"));
        }
        (0..(*schema).n_children as usize)
            .map(|i| {
                let child = *(*schema).children.add(i);
                let name = CStr::from_ptr((*child).name).to_string_lossy().into_owned();
                let kind = match format(child)? {
                    "b" => Kind::Flags,
                    "I" => Kind::U32,
                    "L" => Kind::U64,
                    "g" => Kind::F64,
                    "u" => Kind::Text,
                    "+l" => match format(*(*child).children)? {
                        "b" => Kind::FlagLists,
                        "I" => Kind::U32Lists,
                        other => return Err(unknown(&name, &format!("list of {other}"))),
                    },
                    other => return Err(unknown(&name, other)),
                };
                Ok(Field { name, kind })
            })
            .collect()
    }
}

fn unknown(name: &str, format: &str) -> Error {
    Error::incompatible(format!("column `{name}` has Arrow format {format}, which this SDK does not know"))
}

/// # Safety
/// `schema` is a valid schema of the C Data Interface.
unsafe fn format<'a>(schema: *const ArrowSchema) -> Result<&'a str, Error> {
    // SAFETY: the caller's contract; a schema always has a format.
    unsafe { CStr::from_ptr((*schema).format) }.to_str().map_err(|_| Error::incompatible("a format that is not UTF-8"))
}

/// Copies a struct array with these columns.
///
/// # Safety
/// `array` is a valid array of the C Data Interface, of the schema that gave `fields`.
pub(crate) unsafe fn read(array: &ArrowArray, fields: &[Field]) -> Result<Batch, Error> {
    if array.n_children as usize != fields.len() {
        return Err(Error::incompatible("the batch has another number of columns than its schema"));
    }
    let rows = array.length as usize;
    let read = |(i, field): (usize, &Field)| {
        // SAFETY: there are as many children as fields, of their types, by the caller's contract.
        let column = unsafe { column(View::new(&**array.children.add(i), array.offset as usize, rows), field)? };
        Ok((field.name.clone(), column))
    };
    let columns = fields.iter().enumerate().map(read).collect::<Result<_, Error>>()?;
    Ok(Batch { rows, columns })
}

/// A stretch of a valid array. What is read of it must be of its type.
struct View<'a> {
    array: &'a ArrowArray,
    from: usize,
    rows: usize,
}

impl<'a> View<'a> {
    fn new(array: &'a ArrowArray, from: usize, rows: usize) -> Self {
        Self { array, from: from + array.offset as usize, rows }
    }

    /// # Safety
    /// The layout of the array's type has this buffer.
    unsafe fn buffer(&self, which: usize) -> *const c_void {
        // SAFETY: the caller's contract.
        unsafe { *self.array.buffers.add(which) }
    }

    /// # Safety
    /// It is an array of `T`.
    unsafe fn values<T: Copy>(&self) -> Vec<T> {
        // SAFETY: buffer 1 of a primitive array holds `offset + length` values.
        unsafe { (0..self.rows).map(|row| self.buffer(1).cast::<T>().add(self.from + row).read_unaligned()).collect() }
    }

    /// # Safety
    /// It is an array of booleans.
    unsafe fn flags(&self) -> Vec<bool> {
        // SAFETY: buffer 1 of a boolean array holds `offset + length` bits, least significant first.
        let bit = |at: usize| unsafe { self.buffer(1).cast::<u8>().add(at / 8).read() >> (at % 8) & 1 == 1 };
        (self.from..self.from + self.rows).map(bit).collect()
    }

    /// The ends of the rows in the child or in the bytes: `rows + 1` numbers.
    ///
    /// # Safety
    /// It is an array of lists or texts.
    unsafe fn offsets(&self) -> Vec<usize> {
        if self.rows == 0 {
            return vec![0];
        }
        // SAFETY: buffer 1 of a list or text array holds `offset + length + 1` 32-bit offsets.
        let at = |row| unsafe { self.buffer(1).cast::<i32>().add(self.from + row).read_unaligned() as usize };
        (0..=self.rows).map(at).collect()
    }
}

/// # Safety
/// `view` is of the field's type.
unsafe fn column(view: View, field: &Field) -> Result<Column, Error> {
    // SAFETY: the array has the layout of the field's type, by the caller's contract.
    unsafe {
        if view.array.null_count != 0 && !view.buffer(0).is_null() {
            return Err(Error::incompatible(format!("column `{}` has nulls", field.name)));
        }
        Ok(match field.kind {
            Kind::Flags => Column::Flags(view.flags()),
            Kind::U32 => Column::U32(view.values()),
            Kind::U64 => Column::U64(view.values()),
            Kind::F64 => Column::F64(view.values()),
            Kind::Text => Column::Text(texts(&view, field)?),
            Kind::FlagLists => Column::FlagLists(lists(&view, |items| items.flags())),
            Kind::U32Lists => Column::U32Lists(lists(&view, |items| items.values())),
        })
    }
}

/// # Safety
/// `view` is of texts.
unsafe fn texts(view: &View, field: &Field) -> Result<Vec<String>, Error> {
    // SAFETY: the caller's contract.
    let offsets = unsafe { view.offsets() };
    let text = |ends: &[usize]| {
        let bytes = match ends[1] - ends[0] {
            0 => &[],
            // SAFETY: buffer 2 of a text array holds the bytes that the offsets point into.
            n => unsafe { std::slice::from_raw_parts(view.buffer(2).cast::<u8>().add(ends[0]), n) },
        };
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| Error::argument(format!("column `{}` is not UTF-8", field.name)))
    };
    offsets.windows(2).map(text).collect()
}

/// # Safety
/// `view` is of lists, and `read` fits their items.
unsafe fn lists<T>(view: &View, read: unsafe fn(&View) -> Vec<T>) -> Vec<Vec<T>> {
    // SAFETY: a list array has one child, which holds all that the offsets point to.
    unsafe {
        let child = &**view.array.children;
        let offsets = view.offsets();
        offsets.windows(2).map(|ends| read(&View::new(child, ends[0], ends[1] - ends[0]))).collect()
    }
}
