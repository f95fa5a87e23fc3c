//! Errors of a plug-in, and how they cross the boundary.

use std::ffi::{CString, c_char};
use std::fmt;

use crate::abi;

/// Why a call failed. The message is read by the person who wrote the dataflow file: say what was found, what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: abi::Status,
    message: String,
    path: Option<String>,
}

impl Error {
    /// A wrong option. `pointer` is its JSON Pointer in the configuration, `/power` for example.
    pub fn config(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: abi::ERR_INVALID_CONFIG, message: message.into(), path: Some(pointer.into()) }
    }

    /// An argument that cannot be worked with.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::with_code(abi::ERR_INVALID_ARGUMENT, message)
    }

    /// Reading or writing failed.
    pub fn io(message: impl Into<String>) -> Self {
        Self::with_code(abi::ERR_IO, message)
    }

    /// What the host has does not fit: its schema, for example.
    pub fn incompatible(message: impl Into<String>) -> Self {
        Self::with_code(abi::ERR_INCOMPATIBLE, message)
    }

    /// Called out of order, or on a poisoned instance.
    pub fn state(message: impl Into<String>) -> Self {
        Self::with_code(abi::ERR_INVALID_STATE, message)
    }

    /// Any of the codes of the ABI.
    pub fn with_code(code: abi::Status, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), path: None }
    }

    /// The JSON Pointer of a wrong option.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Fills the host's error struct and gives the status to answer.
    ///
    /// # Safety
    /// `out` is NULL or points to an error struct that the caller zeroed, with its `struct_size` set.
    pub unsafe fn give(self, out: *mut abi::Error) -> abi::Status {
        // SAFETY: non-null, so a live struct by the caller's contract; a smaller one than 1.0's is left alone.
        unsafe {
            if !out.is_null() && (*out).struct_size as usize >= size_of::<abi::Error>() {
                (*out).code = self.code;
                (*out).message = owned(self.message);
                (*out).path = self.path.map_or(std::ptr::null_mut(), owned);
                (*out).release = Some(release);
            }
        }
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{path}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

fn owned(text: String) -> *mut c_char {
    // A NUL inside would end the text early; it is left out.
    CString::new(text.replace('\0', "")).unwrap_or_default().into_raw()
}

/// # Safety
/// `error` was filled by [`Error::give`] and not released yet.
unsafe extern "C-unwind" fn release(error: *mut abi::Error) {
    // SAFETY: the caller's contract; both strings came from `owned`.
    unsafe {
        for text in [&raw mut (*error).message, &raw mut (*error).path] {
            if !(*text).is_null() {
                drop(CString::from_raw(*text));
                *text = std::ptr::null_mut();
            }
        }
        (*error).release = None;
    }
}
