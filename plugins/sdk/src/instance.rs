//! Instances behind the opaque pointer: created, called and freed so that no panic escapes and a poisoned instance is
//! never entered again.

use std::any::Any;
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::abi::{self, Status};
use crate::batch::Field;
use crate::{Component, Error, config};

/// What the opaque pointer points to.
#[repr(C)]
pub struct Boxed<T> {
    /// Frees this very type; first, so that it can be read without knowing `T`.
    destroy: unsafe fn(*mut abi::Instance),
    poisoned: AtomicBool,
    /// The columns of the batches to come; only transforms have any.
    pub(crate) fields: Mutex<Vec<Field>>,
    value: T,
}

/// `create` for component `T`.
///
/// # Safety
/// As the header says of `create`.
pub unsafe fn create<T: Component>(config: abi::Str, out: *mut *mut abi::Instance, error: *mut abi::Error) -> Status {
    // SAFETY: the host passes a valid string and a valid `out`, per the header.
    unsafe { create_with(out, error, || T::create(config::parse(text(config)?)?)) }
}

/// `create` for what `make` makes.
///
/// # Safety
/// `out` can be written to; `error` is NULL or a valid error struct.
pub unsafe fn create_with<T>(
    out: *mut *mut abi::Instance,
    error: *mut abi::Error,
    make: impl FnOnce() -> Result<T, Error>,
) -> Status {
    // SAFETY: the caller's contract.
    unsafe {
        report(error, || {
            let value = make()?;
            let boxed = Boxed { destroy: destroy_as::<T>, poisoned: false.into(), fields: Mutex::default(), value };
            *out = Box::into_raw(Box::new(boxed)).cast();
            Ok(())
        })
        .0
    }
}

/// `destroy`, for an instance of any type.
///
/// # Safety
/// `instance` is NULL or came from [`create`] or [`create_with`], and is not used again.
pub unsafe extern "C-unwind" fn destroy(instance: *mut abi::Instance) {
    if instance.is_null() {
        return;
    }
    // SAFETY: every Boxed<T> begins with the function that frees it.
    unsafe { (*instance.cast::<unsafe fn(*mut abi::Instance)>())(instance) }
}

/// # Safety
/// As [`destroy`], for an instance of `T`.
unsafe fn destroy_as<T>(instance: *mut abi::Instance) {
    // A panic in a drop is the end of this instance anyway; it must not reach the host.
    // SAFETY: made by `create_with::<T>`, which put this very function into it.
    _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(instance.cast::<Boxed<T>>()) })));
}

/// Calls into an instance that may be shared between threads.
///
/// # Safety
/// `instance` came from [`create`] or [`create_with`] for the same `T` and is alive; `error` is NULL or a valid error struct.
pub unsafe fn call<T>(
    instance: *const abi::Instance,
    error: *mut abi::Error,
    body: impl FnOnce(&T, &Boxed<T>) -> Result<(), Error>,
) -> Status {
    // SAFETY: the caller's contract.
    unsafe {
        let boxed = &*instance.cast::<Boxed<T>>();
        enter(&boxed.poisoned, error, || body(&boxed.value, boxed))
    }
}

/// Calls into an instance that is this thread's alone.
///
/// # Safety
/// As [`call`], and no other call is at work on the instance.
pub unsafe fn call_mut<T>(
    instance: *mut abi::Instance,
    error: *mut abi::Error,
    body: impl FnOnce(&mut T, &[Field]) -> Result<(), Error>,
) -> Status {
    // SAFETY: the caller's contract.
    unsafe {
        let Boxed { poisoned, fields, value, .. } = &mut *instance.cast::<Boxed<T>>();
        let fields = fields.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        enter(poisoned, error, || body(value, fields))
    }
}

/// # Safety
/// `error` is NULL or a valid error struct.
unsafe fn enter(poisoned: &AtomicBool, error: *mut abi::Error, body: impl FnOnce() -> Result<(), Error>) -> Status {
    // SAFETY: `error` is NULL or valid, by the caller's contract.
    unsafe {
        if poisoned.load(Ordering::Acquire) {
            return Error::state("this instance panicked before and is not used any more").give(error);
        }
        let (status, panicked) = report(error, body);
        poisoned.fetch_or(panicked, Ordering::Release);
        status
    }
}

/// Runs `body`; an error or a panic goes into `error`. The second value is true after a panic.
///
/// # Safety
/// `error` is NULL or a valid error struct.
unsafe fn report(error: *mut abi::Error, body: impl FnOnce() -> Result<(), Error>) -> (Status, bool) {
    // SAFETY: `error` is NULL or valid, by the caller's contract.
    unsafe {
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => (abi::OK, false),
            Ok(Err(problem)) => (problem.give(error), false),
            Err(panic) => {
                let message = format!("panicked: {}", payload(panic.as_ref()));
                // A payload may panic when dropped.
                std::mem::forget(panic);
                (Error::with_code(abi::ERR_PANIC, message).give(error), true)
            }
        }
    }
}

fn payload(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// A borrowed string as text.
///
/// # Safety
/// `text` points to `len` bytes that stay as they are during `'a`, or `len` is 0.
pub unsafe fn text<'a>(text: abi::Str) -> Result<&'a str, Error> {
    // SAFETY: the caller's contract.
    std::str::from_utf8(unsafe { text.bytes() }).map_err(|_| Error::argument("a text that is not UTF-8"))
}

/// Whether a NUL-terminated id of the host is `id`.
///
/// # Safety
/// `found` is NULL or a valid C string.
pub unsafe fn same(found: *const std::ffi::c_char, id: &CStr) -> bool {
    // SAFETY: the caller's contract.
    !found.is_null() && unsafe { CStr::from_ptr(found) } == id
}
