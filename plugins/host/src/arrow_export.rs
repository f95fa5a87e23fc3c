//! Arrow arrays and schemas out over the C Data Interface. (arrow's own `ffi` feature does the same, but switching it on rebuilds
//! everything that uses Arrow; the types of difflow's messages are few.)
//!
//! The host keeps what the pointers point to, and `release` only counts: a plug-in that forgets to release its input, or does it
//! twice, is then named instead of corrupting memory.

use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::{Array, ArrayData, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use difflow_plugin_abi::{ArrowArray, ArrowSchema};

/// A struct array lent to a plug-in.
pub struct ExportedArray {
    /// What the plug-in gets a pointer to.
    pub root: ArrowArray,
    released: Box<AtomicU32>,
    _node: ArrayNode,
}

/// The memory behind one array and its children.
struct ArrayNode {
    _data: ArrayData,
    buffers: Vec<*const c_void>,
    children: Vec<*mut ArrowArray>,
    _arrays: Vec<ArrowArray>,
    _nodes: Vec<ArrayNode>,
}

impl ExportedArray {
    /// Lends an array.
    pub fn new(array: &StructArray) -> Self {
        let released = Box::new(AtomicU32::new(0));
        let (mut root, node) = export(array.to_data());
        root.release = Some(count_release);
        root.private_data = (&raw const *released).cast_mut().cast();
        Self { root, released, _node: node }
    }

    /// How often the plug-in released it.
    pub fn releases(&self) -> u32 {
        self.released.load(Ordering::Acquire)
    }
}

fn export(data: ArrayData) -> (ArrowArray, ArrayNode) {
    let (mut arrays, nodes): (Vec<ArrowArray>, Vec<ArrayNode>) = data
        .child_data()
        .iter()
        .map(|child| {
            let (array, node) = export(child.clone());
            (array, node)
        })
        .unzip();
    let mut buffers = vec![data.nulls().map_or(std::ptr::null(), |nulls| nulls.validity().as_ptr().cast())];
    if matches!(data.data_type(), DataType::Struct(_)) {
        buffers.truncate(1);
    } else {
        buffers.extend(data.buffers().iter().map(|buffer| buffer.as_ptr().cast::<c_void>()));
    }
    let children = arrays.iter_mut().map(|array| &raw mut *array).collect();
    let mut node = ArrayNode { buffers, children, _arrays: arrays, _nodes: nodes, _data: data };
    let array = ArrowArray {
        length: node._data.len() as i64,
        null_count: node._data.null_count() as i64,
        offset: node._data.offset() as i64,
        n_buffers: node.buffers.len() as i64,
        n_children: node.children.len() as i64,
        buffers: node.buffers.as_mut_ptr(),
        children: node.children.as_mut_ptr(),
        dictionary: null_mut(),
        release: Some(forget),
        private_data: null_mut(),
    };
    (array, node)
}

unsafe extern "C-unwind" fn count_release(array: *mut ArrowArray) {
    // SAFETY: the counter lives as long as the ExportedArray, which outlives the call that lends it.
    unsafe {
        (*(*array).private_data.cast::<AtomicU32>()).fetch_add(1, Ordering::AcqRel);
        (*array).release = None;
    }
}

/// A child's memory belongs to the root.
unsafe extern "C-unwind" fn forget(array: *mut ArrowArray) {
    // SAFETY: the plug-in passes the array that it was given.
    unsafe { (*array).release = None }
}

/// A schema lent to a plug-in.
pub struct ExportedSchema {
    /// What the plug-in gets a pointer to.
    pub root: ArrowSchema,
    _node: SchemaNode,
}

struct SchemaNode {
    format: CString,
    name: CString,
    children: Vec<*mut ArrowSchema>,
    _schemas: Vec<ArrowSchema>,
    _nodes: Vec<SchemaNode>,
}

impl ExportedSchema {
    /// The schema of a struct with these fields.
    pub fn new(fields: &Fields) -> Self {
        let (root, node) = export_field(&Field::new("", DataType::Struct(fields.clone()), false));
        Self { root, _node: node }
    }
}

fn export_field(field: &Field) -> (ArrowSchema, SchemaNode) {
    let (mut schemas, nodes): (Vec<ArrowSchema>, Vec<SchemaNode>) = children(field.data_type())
        .map(|child| {
            let (schema, node) = export_field(child);
            (schema, node)
        })
        .unzip();
    let children = schemas.iter_mut().map(|schema| &raw mut *schema).collect();
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let (format, name) = (text(format(field.data_type())), text(field.name()));
    let mut node = SchemaNode { format, name, children, _schemas: schemas, _nodes: nodes };
    let schema = ArrowSchema {
        format: node.format.as_ptr(),
        name: node.name.as_ptr(),
        metadata: std::ptr::null(),
        // ARROW_FLAG_NULLABLE
        flags: if field.is_nullable() { 2 } else { 0 },
        n_children: node.children.len() as i64,
        children: node.children.as_mut_ptr(),
        dictionary: null_mut(),
        release: Some(forget_schema),
        private_data: null_mut(),
    };
    (schema, node)
}

unsafe extern "C-unwind" fn forget_schema(schema: *mut ArrowSchema) {
    // SAFETY: the plug-in passes the schema that it was lent.
    unsafe { (*schema).release = None }
}

fn children(data_type: &DataType) -> Box<dyn Iterator<Item = &Field> + '_> {
    match data_type {
        DataType::Struct(fields) => Box::new(fields.iter().map(AsRef::as_ref)),
        DataType::List(item) => Box::new(std::iter::once(item.as_ref())),
        _ => Box::new(std::iter::empty()),
    }
}

/// The format string of a type that difflow's messages have.
fn format(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "b",
        DataType::UInt32 => "I",
        DataType::UInt64 => "L",
        DataType::Float64 => "g",
        DataType::Utf8 => "u",
        DataType::List(_) => "+l",
        DataType::Struct(_) => "+s",
        // Not a type of any message; a plug-in that is shown it refuses.
        _ => "n",
    }
}

/// The first difference between a plug-in's schema and a field: names, types and children.
///
/// # Safety
/// `found` is a valid schema.
pub unsafe fn difference(found: *const ArrowSchema, wanted: &Field) -> Option<String> {
    // SAFETY: the caller's contract, which holds for children as well.
    unsafe {
        let text = |text: *const std::ffi::c_char| match text.is_null() {
            true => String::new(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        };
        let (found_format, name) = (text((*found).format), text((*found).name));
        if found_format != format(wanted.data_type()) {
            let wanted_format = format(wanted.data_type());
            return Some(format!("column `{name}` of Arrow format {found_format} instead of {wanted_format}"));
        }
        let fields: Vec<&Field> = children(wanted.data_type()).collect();
        if (*found).n_children as usize != fields.len() {
            return Some(format!("{} columns in `{name}` instead of {}", (*found).n_children, fields.len()));
        }
        for (i, field) in fields.into_iter().enumerate() {
            let child = *(*found).children.add(i);
            let child_name = text((*child).name);
            if matches!(wanted.data_type(), DataType::Struct(_)) && child_name != *field.name() {
                return Some(format!("column `{child_name}` instead of `{}`", field.name()));
            }
            if let Some(problem) = difference(child, field) {
                return Some(problem);
            }
        }
        None
    }
}
