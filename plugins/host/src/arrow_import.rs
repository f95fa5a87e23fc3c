//! Imports a plug-in's schema and batch over the C Data Interface.
//!
//! arrow assumes that a foreign struct follows the interface: if it does not, arrow panics on an assertion or reads
//! past the end. So whatever can be checked without reading the data itself is checked first, and then the data by
//! arrow's own full validation.

use std::ptr::null_mut;

use arrow::array::{StructArray, layout};
use arrow::datatypes::{DataType, Fields};
use arrow::ffi::{FFI_ArrowArray, from_ffi_and_data_type};
use difflow_plugin_abi::{self as abi, ArrowArray, ArrowSchema};

use crate::call::{call, text};

/// A plug-in's array, given back when it goes out of scope.
pub struct Received {
    id: String,
    array: ArrowArray,
}

impl Received {
    /// An empty one for component `id` to fill.
    pub fn new(id: &str) -> Self {
        let array = ArrowArray {
            length: 0,
            null_count: 0,
            offset: 0,
            n_buffers: 0,
            n_children: 0,
            buffers: null_mut(),
            children: null_mut(),
            dictionary: null_mut(),
            release: None,
            private_data: null_mut(),
        };
        Self { id: id.to_owned(), array }
    }

    /// What the plug-in fills.
    pub fn pointer(&mut self) -> *mut ArrowArray {
        &raw mut self.array
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.array.release.is_none()
    }

    /// Returns it as a struct array with these fields, which gives the memory back when nothing refers to it any more. Errors if it is no
    /// such array.
    ///
    /// # Safety
    /// Pointers that are not NULL point to what the C Data Interface says, as far as the array's numbers reach.
    pub unsafe fn import(self, fields: &Fields) -> Result<StructArray, String> {
        let data_type = DataType::Struct(fields.clone());
        // SAFETY: the caller's contract.
        unsafe { check(&self.array, &data_type)? };
        // SAFETY: the same C struct; what gives the memory back is `self`, once, through the copy's own release.
        let copy = unsafe { (&raw const self.array).cast::<FFI_ArrowArray>().read() };
        let mut array = std::mem::ManuallyDrop::new(copy);
        array.release = Some(give_back);
        array.private_data = Box::into_raw(Box::new(self)).cast();
        // SAFETY: checked above, as far as can be seen; what the pointers point to is the caller's contract.
        let data = unsafe { from_ffi_and_data_type(std::mem::ManuallyDrop::into_inner(array), data_type) };
        let data = data.map_err(|e| e.to_string())?;
        data.validate_full().map_err(|e| e.to_string())?;
        Ok(StructArray::from(data))
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(release) = self.array.release {
            _ = call(&self.id, "release", |_| {
                // SAFETY: the plug-in gave the array away; this is the one release.
                unsafe { release(&raw mut self.array) };
                abi::OK
            });
        }
    }
}

/// # Safety
/// `array` was made by [`Received::import`] and not given back yet.
unsafe extern "C" fn give_back(array: *mut FFI_ArrowArray) {
    // SAFETY: the caller's contract.
    unsafe {
        drop(Box::from_raw((*array).private_data.cast::<Received>()));
        (*array).release = None;
    }
}

/// Says what is wrong with an array of this type, as far as can be seen without reading its values.
///
/// # Safety
/// As of [`Received::import`].
unsafe fn check(array: &ArrowArray, data_type: &DataType) -> Result<(), String> {
    let (rows, offset) = (size(array.length)?, size(array.offset)?);
    let wanted = layout(data_type).buffers.len() + 1;
    if size(array.n_buffers)? != wanted {
        return Err(format!("{} buffers, wanted {wanted} for {data_type}", array.n_buffers));
    }
    if array.buffers.is_null() {
        return Err("NULL for its buffers".into());
    }
    // SAFETY: there are as many buffers as it says.
    let buffer = |at: usize| unsafe { *array.buffers.add(at) };
    if array.null_count != 0 && !buffer(0).is_null() {
        return Err("it has nulls".into());
    }
    if matches!(data_type, DataType::Utf8 | DataType::List(_)) && rows > 0 {
        let offsets = buffer(1).cast::<i32>();
        // SAFETY: an offsets buffer holds one number more than rows.
        if offsets.is_null() || !offsets.is_aligned() || unsafe { *offsets.add(offset + rows) } < 0 {
            return Err("its offsets are none".into());
        }
    }
    let fields = match data_type {
        DataType::Struct(fields) => fields.iter().collect(),
        DataType::List(item) => vec![item],
        _ => Vec::new(),
    };
    if size(array.n_children)? != fields.len() {
        return Err(format!("{} columns instead of {}", array.n_children, fields.len()));
    }
    if array.children.is_null() && !fields.is_empty() {
        return Err("NULL for its columns".into());
    }
    for (at, field) in fields.into_iter().enumerate() {
        let name = field.name();
        // SAFETY: there are as many children as fields, each NULL or an array.
        let child = unsafe { (*array.children.add(at)).as_ref() }.ok_or_else(|| format!("no column `{name}`"))?;
        if matches!(data_type, DataType::Struct(_)) && size(child.length)? < offset + rows {
            return Err(format!("column `{name}` has {} rows, the batch {rows}", child.length));
        }
        // SAFETY: the caller's contract, which holds for children as well.
        unsafe { check(child, field.data_type()) }.map_err(|problem| format!("column `{name}`: {problem}"))?;
    }
    Ok(())
}

/// A number of rows, buffers or columns. Offsets are 32-bit numbers, so more would be none.
fn size(number: i64) -> Result<usize, String> {
    i32::try_from(number)
        .ok()
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| format!("a size of {number}"))
}

/// The first difference between a plug-in's schema and the wanted one: names, types and columns.
///
/// # Safety
/// Both are schemas; pointers that are not NULL point to what the C Data Interface says.
pub unsafe fn difference(found: &ArrowSchema, wanted: &ArrowSchema) -> Option<String> {
    // SAFETY: the caller's contract.
    let text = |from| unsafe { text(from).unwrap_or_default() };
    let name = text(found.name);
    let (format, wanted_format) = (text(found.format), text(wanted.format));
    if format != wanted_format {
        return Some(format!("column `{name}` of Arrow format {format} instead of {wanted_format}"));
    }
    if found.n_children != wanted.n_children || (found.children.is_null() && wanted.n_children > 0) {
        return Some(format!("{} columns in `{name}` instead of {}", found.n_children, wanted.n_children));
    }
    let is_struct = wanted_format == "+s";
    (0..usize::try_from(wanted.n_children).unwrap_or(0)).find_map(|at| {
        // SAFETY: both have as many children.
        let (found, wanted) = unsafe { ((*found.children.add(at)).as_ref(), &**wanted.children.add(at)) };
        let wanted_name = text(wanted.name);
        let Some(found) = found else { return Some(format!("no column `{wanted_name}`")) };
        let found_name = text(found.name);
        if is_struct && found_name != wanted_name {
            return Some(format!("column `{found_name}` instead of `{wanted_name}`"));
        }
        // SAFETY: the caller's contract, which holds for children as well.
        unsafe { difference(found, wanted) }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "arrow_tests.rs"]
mod tests;
