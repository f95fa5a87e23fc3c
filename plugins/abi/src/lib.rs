//! `difflow_plugin.h` in Rust: the same structs, field by field, with the same names without the prefix. The header
//! is normative and specifies what every function may and must do; tests/layout.rs compares the two with a C compiler
//! and with layout.txt.
//!
//! Function fields are `Option`: NULL is read as `None`, so a table that lacks a function is not undefined behaviour.
//! They are `extern "C-unwind"`, which is the same in C: an exception or panic that leaves a function, against the
//! rules, then reaches the host instead of being undefined behaviour, and the host ends the process and reports the
//! plug-in's name.

use std::ffi::{CStr, c_char, c_void};
use std::mem::offset_of;

/// Major version of the ABI. Another major is refused.
pub const ABI_MAJOR: u32 = 1;
/// Minor version of the ABI.
pub const ABI_MINOR: u32 = 0;
/// The symbol that a plug-in exports.
pub const ENTRY_SYMBOL: &str = "difflow_plugin_entry_v1";

/// Kind: noise schedule, [`NoiseSchedule`].
pub const NOISE_SCHEDULE: &CStr = c"difflow.noise-schedule/1";
/// Kind: annealing schedule, [`AnnealingSchedule`].
pub const ANNEALING_SCHEDULE: &CStr = c"difflow.annealing-schedule/1";
/// Kind: batch transform, [`BatchTransform`].
pub const BATCH_TRANSFORM: &CStr = c"difflow.batch-transform/1";
/// Kind: model recipe, [`ModelRecipe`].
pub const MODEL_RECIPE: &CStr = c"difflow.model-recipe/1";
/// Kind: torch model, [`TorchModel`].
pub const TORCH_MODEL: &CStr = c"difflow.torch-model/1";
/// Extension of any kind: [`State`].
pub const STATE: &CStr = c"difflow.state/1";

/// What a function answers.
pub type Status = i32;
/// Done.
pub const OK: Status = 0;
/// An argument is out of its range.
pub const ERR_INVALID_ARGUMENT: Status = 1;
/// The configuration is wrong; [`Error::path`] says where.
pub const ERR_INVALID_CONFIG: Status = 2;
/// There is no such thing here.
pub const ERR_NOT_IMPLEMENTED: Status = 3;
/// Called out of order, or on a poisoned instance.
pub const ERR_INVALID_STATE: Status = 4;
/// Reading or writing failed.
pub const ERR_IO: Status = 5;
/// ABI, Arrow schema or libtorch do not fit.
pub const ERR_INCOMPATIBLE: Status = 6;
/// A panic was caught at the boundary.
pub const ERR_PANIC: Status = 7;

/// Borrowed UTF-8 without a NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    pub ptr: *const c_char,
    pub len: usize,
}

impl Str {
    /// Borrows a string; valid as long as it is.
    pub fn new(text: &str) -> Self {
        Self { ptr: text.as_ptr().cast(), len: text.len() }
    }

    /// The bytes; without length the pointer may be anything.
    ///
    /// # Safety
    /// It borrows a string that lives through `'a`.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: the caller's contract.
        if self.len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.len) } }
    }
}

/// Filled by the callee that fails, released by the caller.
#[repr(C)]
#[derive(Debug)]
pub struct Error {
    pub struct_size: u32,
    pub code: i32,
    pub message: *mut c_char,
    pub path: *mut c_char,
    pub release: Option<unsafe extern "C-unwind" fn(*mut Error)>,
    pub private_data: *mut c_void,
}

/// What the host offers a plug-in.
#[repr(C)]
#[derive(Debug)]
pub struct Host {
    pub struct_size: u32,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub host_data: *mut c_void,
    pub name: *const c_char,
    pub version: *const c_char,
    pub log: Option<unsafe extern "C-unwind" fn(*const Host, i32, Str, Str)>,
    pub get_extension: Option<unsafe extern "C-unwind" fn(*const Host, *const c_char) -> *const c_void>,
}

/// The descriptor of a component.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Component {
    pub struct_size: u32,
    pub id: *const c_char,
    pub kind: *const c_char,
    pub name: *const c_char,
    pub version: *const c_char,
    pub vendor: *const c_char,
    pub license: *const c_char,
    pub description: *const c_char,
    pub config_schema: *const c_char,
}

/// One component at work. Opaque.
#[repr(C)]
pub struct Instance {
    _opaque: [u8; 0],
}

/// The exported table.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub struct_size: u32,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub init: Option<unsafe extern "C-unwind" fn(*const Host, *const c_char, *mut Error) -> Status>,
    pub deinit: Option<unsafe extern "C-unwind" fn()>,
    pub components: *const *const Component,
    pub create: Option<unsafe extern "C-unwind" fn(*const c_char, Str, *mut *mut Instance, *mut Error) -> Status>,
    pub destroy: Option<unsafe extern "C-unwind" fn(*mut Instance)>,
    pub get_extension: Option<unsafe extern "C-unwind" fn(*const c_char, *const c_char) -> *const c_void>,
}

/// A function of t over arrays of it.
pub type OverTime = unsafe extern "C-unwind" fn(*const Instance, *const f64, usize, *mut f64, *mut Error) -> Status;

/// Table of a noise schedule.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NoiseSchedule {
    pub struct_size: u32,
    pub alpha: Option<OverTime>,
    pub alpha_derivative: Option<OverTime>,
    pub weight: Option<OverTime>,
}

/// [`AnnealingSchedule::attn_mask_ratio`].
pub type AttnMaskRatio = unsafe extern "C-unwind" fn(*const Instance, u64, *mut f64, *mut Error) -> Status;
/// [`AnnealingSchedule::attn_mask`].
pub type AttnMask = unsafe extern "C-unwind" fn(*const Instance, u64, u64, u32, *mut u8, *mut Error) -> Status;

/// Table of an annealing schedule.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AnnealingSchedule {
    pub struct_size: u32,
    pub attn_mask_ratio: Option<AttnMaskRatio>,
    pub attn_mask: Option<AttnMask>,
}

/// Arrow C Data Interface: a schema.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowSchema {
    pub format: *const c_char,
    pub name: *const c_char,
    pub metadata: *const c_char,
    pub flags: i64,
    pub n_children: i64,
    pub children: *mut *mut ArrowSchema,
    pub dictionary: *mut ArrowSchema,
    pub release: Option<unsafe extern "C-unwind" fn(*mut ArrowSchema)>,
    pub private_data: *mut c_void,
}

/// Arrow C Data Interface: an array.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowArray {
    pub length: i64,
    pub null_count: i64,
    pub offset: i64,
    pub n_buffers: i64,
    pub n_children: i64,
    pub buffers: *mut *const c_void,
    pub children: *mut *mut ArrowArray,
    pub dictionary: *mut ArrowArray,
    pub release: Option<unsafe extern "C-unwind" fn(*mut ArrowArray)>,
    pub private_data: *mut c_void,
}

/// [`BatchTransform::process`].
pub type Process =
    unsafe extern "C-unwind" fn(*mut Instance, u64, u64, *mut ArrowArray, *mut ArrowArray, *mut Error) -> Status;

/// Table of a batch transform.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BatchTransform {
    pub struct_size: u32,
    pub output_schema: Option<
        unsafe extern "C-unwind" fn(*const Instance, *const ArrowSchema, *mut ArrowSchema, *mut Error) -> Status,
    >,
    pub process: Option<Process>,
}

/// Table of a model recipe.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ModelRecipe {
    pub struct_size: u32,
    pub recipe: Option<unsafe extern "C-unwind" fn(*const Instance, *mut Str, *mut Error) -> Status>,
}

/// An `at::Tensor`. Opaque.
#[repr(C)]
pub struct Tensor {
    _opaque: [u8; 0],
}

/// Which libtorch a torch model was built against.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TorchBuild {
    pub struct_size: u32,
    pub libtorch_version: *const c_char,
    pub cxx11_abi: i32,
}

/// Takes a parameter: context, name, tensor, whether it is trained.
pub type ParameterVisitor = unsafe extern "C-unwind" fn(*mut c_void, Str, *const Tensor, i32) -> Status;

/// [`TorchModel::load`].
pub type Load = unsafe extern "C-unwind" fn(*mut Instance, Str, Str, Str, u64, *mut Error) -> Status;
/// [`TorchModel::parameters`].
pub type Parameters =
    unsafe extern "C-unwind" fn(*mut Instance, Option<ParameterVisitor>, *mut c_void, *mut Error) -> Status;
/// [`TorchModel::forward`].
pub type Forward = unsafe extern "C-unwind" fn(
    *mut Instance,
    *const Tensor,
    *const Tensor,
    i32,
    *mut *mut Tensor,
    *mut Error,
) -> Status;
/// [`TorchModel::save`].
pub type Save = unsafe extern "C-unwind" fn(*mut Instance, Str, *mut Error) -> Status;

/// Table of a torch model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TorchModel {
    pub struct_size: u32,
    pub built_against: Option<unsafe extern "C-unwind" fn() -> *const TorchBuild>,
    pub load: Option<Load>,
    pub parameters: Option<Parameters>,
    pub forward: Option<Forward>,
    pub save: Option<Save>,
    pub set_vocab_size: Option<unsafe extern "C-unwind" fn(*mut Instance, u64, *mut Error) -> Status>,
}

/// Takes a piece of an instance's state.
pub type StateWriter = unsafe extern "C-unwind" fn(*mut c_void, *const c_void, usize) -> Status;

/// Table of the state extension.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub struct_size: u32,
    pub save:
        Option<unsafe extern "C-unwind" fn(*const Instance, *mut c_void, Option<StateWriter>, *mut Error) -> Status>,
    pub load: Option<unsafe extern "C-unwind" fn(*mut Instance, *const c_void, usize, *mut Error) -> Status>,
}

/// Static data that holds raw pointers to other static data.
#[repr(transparent)]
#[derive(Debug)]
pub struct Static<T>(pub T);

// SAFETY: it is only ever made of immutable static data (descriptors, tables), which every thread may read.
unsafe impl<T> Sync for Static<T> {}

/// A struct that begins with `struct_size` and may be all zero.
///
/// # Safety
/// The first field is the `u32` size, and the all-zero bit pattern is a value of the type.
pub unsafe trait Sized32: Copy {
    /// The mandatory part: up to the end of the last field that a plug-in of version 1.0 must have.
    const LEAST: usize;

    /// Reads as much of the struct as its writer knew; what it did not know is zero (rule R1). `None` when the mandatory part is not
    /// there.
    ///
    /// # Safety
    /// `from` points to a live struct of this type, of any version.
    unsafe fn read(from: *const Self) -> Option<Self> {
        // SAFETY: every version begins with struct_size, by the contract of the caller.
        let written = unsafe { from.cast::<u32>().read() } as usize;
        if written < Self::LEAST {
            return None;
        }
        // SAFETY: all zero is a value, by the trait's contract.
        let mut here: Self = unsafe { std::mem::zeroed() };
        let bytes = written.min(size_of::<Self>());
        // SAFETY: `written` bytes are readable, by the caller's contract, and `bytes` fit into `here`.
        unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut here).cast::<u8>(), bytes) };
        Some(here)
    }
}

macro_rules! sized {
    ($($type:ident up to $last:ident),+ $(,)?) => {
        $(
            // SAFETY: repr(C), struct_size first, and only integers, raw pointers and optional functions.
            unsafe impl Sized32 for $type {
                const LEAST: usize = offset_of!($type, $last) + size_of::<usize>();
            }
        )+
    };
}

sized! {
    Component up to kind,
    Entry up to get_extension,
    NoiseSchedule up to alpha_derivative,
    AnnealingSchedule up to attn_mask_ratio,
    BatchTransform up to process,
    ModelRecipe up to recipe,
    TorchBuild up to cxx11_abi,
    TorchModel up to save,
    State up to load,
}
