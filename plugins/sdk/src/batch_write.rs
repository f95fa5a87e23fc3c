//! [`Batch`] → Arrow C Data Interface.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};

use crate::abi::{ArrowArray, ArrowSchema};
use crate::batch::{Batch, Column, Field};
use crate::error::Error;

/// What an exported array owns: its buffers and children, freed by `release`.
struct Owned {
    /// Freed with it; the pointers below point into them.
    _bytes: Vec<Vec<u8>>,
    buffers: Vec<*const c_void>,
    children: Vec<*mut ArrowArray>,
}

/// The batch as a struct array with these columns.
///
/// # Errors
/// When names, types or numbers of rows differ from the schema.
pub(crate) fn write(batch: Batch, fields: &[Field]) -> Result<ArrowArray, Error> {
    let found = batch.columns.iter().map(|(name, column)| (name.as_str(), column.kind()));
    if !found.eq(fields.iter().map(|field| (field.name.as_str(), field.kind))) {
        return Err(Error::incompatible("the transform changed names or types of columns"));
    }
    if let Some((name, column)) = batch.columns.iter().find(|(_, column)| column.rows() != batch.rows) {
        let message = format!("column `{name}` has {} rows, the batch {}", column.rows(), batch.rows);
        return Err(Error::incompatible(message));
    }
    let children = batch.columns.into_iter().map(|(_, values)| column(values)).collect::<Result<Vec<_>, _>>()?;
    Ok(array(batch.rows, vec![None], children))
}

fn column(column: Column) -> Result<ArrowArray, Error> {
    let rows = column.rows();
    let plain = |bytes: Vec<u8>| array(rows, vec![None, Some(bytes)], Vec::new());
    Ok(match column {
        Column::Flags(values) => plain(bits(&values)),
        Column::U32(values) => plain(values.iter().flat_map(|value| value.to_ne_bytes()).collect()),
        Column::U64(values) => plain(values.iter().flat_map(|value| value.to_ne_bytes()).collect()),
        Column::F64(values) => plain(values.iter().flat_map(|value| value.to_ne_bytes()).collect()),
        Column::Text(values) => {
            let offsets = offsets(values.iter().map(String::len))?;
            array(rows, vec![None, Some(offsets), Some(values.concat().into_bytes())], Vec::new())
        }
        Column::FlagLists(values) => list(values, Column::Flags)?,
        Column::U32Lists(values) => list(values, Column::U32)?,
    })
}

fn list<T: Clone>(values: Vec<Vec<T>>, items: fn(Vec<T>) -> Column) -> Result<ArrowArray, Error> {
    let offsets = offsets(values.iter().map(Vec::len))?;
    Ok(array(values.len(), vec![None, Some(offsets)], vec![column(items(values.concat()))?]))
}

fn bits(values: &[bool]) -> Vec<u8> {
    values.chunks(8).map(|chunk| chunk.iter().enumerate().fold(0, |byte, (i, &on)| byte | u8::from(on) << i)).collect()
}

fn offsets(lengths: impl Iterator<Item = usize>) -> Result<Vec<u8>, Error> {
    let mut bytes = 0i32.to_ne_bytes().to_vec();
    let mut end = 0usize;
    for length in lengths {
        end += length;
        let end = i32::try_from(end).map_err(|_| Error::argument("a column of 2³¹ items or more"))?;
        bytes.extend(end.to_ne_bytes());
    }
    Ok(bytes)
}

fn array(rows: usize, bytes: Vec<Option<Vec<u8>>>, children: Vec<ArrowArray>) -> ArrowArray {
    let buffers = bytes.iter().map(|bytes| bytes.as_ref().map_or(null(), |bytes| bytes.as_ptr().cast())).collect();
    let children = children.into_iter().map(|child| Box::into_raw(Box::new(child))).collect();
    let mut owned = Box::new(Owned { _bytes: bytes.into_iter().flatten().collect(), buffers, children });
    ArrowArray {
        length: rows as i64,
        null_count: 0,
        offset: 0,
        n_buffers: owned.buffers.len() as i64,
        n_children: owned.children.len() as i64,
        buffers: owned.buffers.as_mut_ptr(),
        children: owned.children.as_mut_ptr(),
        dictionary: null_mut(),
        release: Some(release_array),
        private_data: Box::into_raw(owned).cast(),
    }
}

/// # Safety
/// `array` was made by [`array`] and not released yet.
unsafe extern "C-unwind" fn release_array(array: *mut ArrowArray) {
    // SAFETY: the caller's contract; `release` is NULL from now on. A consumer may have moved children out; those have
    // no release any more.
    unsafe {
        let owned = Box::from_raw((*array).private_data.cast::<Owned>());
        for &child in &owned.children {
            let mut child = Box::from_raw(child);
            if let Some(release) = child.release {
                release(&raw mut *child);
            }
        }
        (*array).release = None;
    }
}

/// What a copied schema owns.
struct OwnedSchema {
    format: *mut c_char,
    name: *mut c_char,
    children: Vec<*mut ArrowSchema>,
}

/// A copy of a schema, without metadata and dictionary.
///
/// # Safety
/// `from` is a valid schema of the C Data Interface.
pub(crate) unsafe fn copy_schema(from: *const ArrowSchema) -> ArrowSchema {
    // SAFETY: the caller's contract, which holds for children as well.
    unsafe {
        let copy = |text: *const c_char| {
            if text.is_null() { null_mut() } else { CStr::from_ptr(text).to_owned().into_raw() }
        };
        let children = (0..(*from).n_children as usize)
            .map(|i| Box::into_raw(Box::new(copy_schema(*(*from).children.add(i)))))
            .collect();
        let mut owned = Box::new(OwnedSchema { format: copy((*from).format), name: copy((*from).name), children });
        ArrowSchema {
            format: owned.format,
            name: owned.name,
            metadata: null(),
            flags: (*from).flags,
            n_children: owned.children.len() as i64,
            children: owned.children.as_mut_ptr(),
            dictionary: null_mut(),
            release: Some(release_schema),
            private_data: Box::into_raw(owned).cast(),
        }
    }
}

/// # Safety
/// `schema` was made by [`copy_schema`] and not released yet.
unsafe extern "C-unwind" fn release_schema(schema: *mut ArrowSchema) {
    // SAFETY: the caller's contract.
    unsafe {
        let owned = Box::from_raw((*schema).private_data.cast::<OwnedSchema>());
        for text in [owned.format, owned.name] {
            if !text.is_null() {
                drop(std::ffi::CString::from_raw(text));
            }
        }
        for &child in &owned.children {
            let mut child = Box::from_raw(child);
            if let Some(release) = child.release {
                release(&raw mut *child);
            }
        }
        (*schema).release = None;
    }
}
