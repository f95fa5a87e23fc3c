//! One call over the boundary: an error struct on the plug-in's side, a [`PluginError`] on this side.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use difflow_plugin_abi as abi;

use crate::crash::Inside;
use crate::error::PluginError;

/// Calls `function` of component `id` with an error struct to fill.
///
/// # Errors
/// What the plug-in answered, with its own message.
pub fn call(
    id: &str,
    function: &'static str,
    body: impl FnOnce(*mut abi::Error) -> abi::Status,
) -> Result<(), PluginError> {
    let mut error = abi::Error {
        struct_size: size_of::<abi::Error>() as u32,
        code: 0,
        message: std::ptr::null_mut(),
        path: std::ptr::null_mut(),
        release: None,
        private_data: std::ptr::null_mut(),
    };
    let inside = Inside::enter(id, function);
    // A panic cannot come out of `body`: a plug-in has a panic runtime of its own, and what it throws, like an exception of C++, ends the
    // process here, while the handler knows whose it was.
    let status = catch_unwind(AssertUnwindSafe(|| body(&raw mut error))).unwrap_or(abi::ERR_PANIC);
    if status == abi::OK && error.release.is_none() {
        return Ok(());
    }
    // SAFETY: NULL or C strings, by the ABI.
    let (message, pointer) = unsafe { (text(error.message), text(error.path)) };
    if let Some(release) = error.release {
        // SAFETY: the callee filled the struct and is asked once to free what is in it.
        unsafe { release(&raw mut error) };
    }
    drop(inside);
    let id = id.to_owned();
    let message = match message {
        Some(message) => message,
        None => format!("status {status} ({}), without a message", name(status)),
    };
    match status {
        abi::OK => Ok(()),
        abi::ERR_INVALID_CONFIG => Err(PluginError::Config { id, pointer: pointer.unwrap_or_default(), message }),
        _ => Err(PluginError::Call { id, function, message }),
    }
}

/// A C string; `None` for NULL.
///
/// # Safety
/// `text` is NULL or a C string.
pub unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: the caller's contract.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

fn name(status: abi::Status) -> &'static str {
    match status {
        abi::ERR_INVALID_ARGUMENT => "invalid argument",
        abi::ERR_INVALID_CONFIG => "invalid configuration",
        abi::ERR_NOT_IMPLEMENTED => "not implemented",
        abi::ERR_INVALID_STATE => "invalid state",
        abi::ERR_IO => "input or output",
        abi::ERR_INCOMPATIBLE => "incompatible",
        abi::ERR_PANIC => "panic",
        _ => "a code that the ABI does not know",
    }
}
