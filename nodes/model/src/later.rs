//! Between host and device without waiting: copies to the device go through pinned memory, and what a step leaves on the device is read
//! when it is long done.

use std::ffi::{c_char, c_int, c_void};

use tch::kind::Element;
use tch::{Device, Tensor};

use crate::error::ModelError;
use crate::shim::checked;

unsafe extern "C" {
    fn difflow_upload(host: *mut c_void, index: c_int, out: *mut *mut c_void, error: *mut c_char, room: usize)
    -> c_int;
    fn difflow_later(from: *mut c_void, out: *mut *mut c_void, error: *mut c_char, room: usize) -> c_int;
    fn difflow_later_read(later: *mut c_void, out: *mut *mut c_void, error: *mut c_char, room: usize) -> c_int;
    fn difflow_later_drop(later: *mut c_void);
}

/// A tensor of these values, `[n]`, on a device. Nothing waits for the copy.
pub(crate) fn upload<T: Element>(values: &[T], device: Device) -> Result<Tensor, ModelError> {
    let host = Tensor::f_from_slice(values)?;
    let Device::Cuda(index) = device else { return Ok(host) };
    let mut out = std::ptr::null_mut();
    let from = host.as_ptr().cast_mut().cast();
    // SAFETY: a live tensor; on success `out` is an owned one.
    unsafe {
        checked(|error, room| difflow_upload(from, index as c_int, &raw mut out, error, room))?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// A copy to host memory that may still be under way.
#[derive(Debug)]
pub(crate) struct Later(*mut c_void);

// SAFETY: owns a tensor and an event, which any thread may wait for; nothing else refers to them.
unsafe impl Send for Later {}

impl Later {
    /// Starts the copy, which comes after the operations that the device has been given so far.
    pub fn start(from: &Tensor) -> Result<Self, ModelError> {
        let mut later = std::ptr::null_mut();
        let from = from.as_ptr().cast_mut().cast();
        // SAFETY: a live tensor; on success `later` is owned here.
        checked(|error, room| unsafe { difflow_later(from, &raw mut later, error, room) })?;
        Ok(Self(later))
    }

    /// Waits for the values, row-major.
    pub fn read(self) -> Result<Vec<f64>, ModelError> {
        let mut out = std::ptr::null_mut();
        // SAFETY: live until it is dropped; on success `out` is an owned tensor.
        let values = unsafe {
            checked(|error, room| difflow_later_read(self.0, &raw mut out, error, room))?;
            Tensor::from_ptr(out.cast())
        };
        crate::host::count_read();
        Ok(Vec::<f64>::try_from(values.f_flatten(0, -1)?)?)
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        // SAFETY: owned, and dropped once.
        unsafe { difflow_later_drop(self.0) }
    }
}
