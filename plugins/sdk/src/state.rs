//! State that a checkpoint keeps, on any kind.

use std::ffi::c_void;

use crate::abi::{self, Status};
use crate::{Component, Error, instance};

/// For components whose work depends on more than configuration and arguments. Export them `with state`.
pub trait State: Component {
    /// The state as bytes.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn save(&self) -> Result<Vec<u8>, Error>;

    /// Takes back what [`save`](Self::save) gave.
    ///
    /// # Errors
    /// When the bytes are not from it.
    fn load(&mut self, bytes: &[u8]) -> Result<(), Error>;
}

/// The table of `T`.
pub fn table<T: State>() -> &'static abi::State {
    const { &abi::State { struct_size: size_of::<abi::State>() as u32, save: Some(save::<T>), load: Some(load::<T>) } }
}

/// # Safety
/// As the header says of `save`.
unsafe extern "C-unwind" fn save<T: State>(
    instance: *const abi::Instance,
    ctx: *mut c_void,
    write: Option<abi::StateWriter>,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call(instance, error, |component: &T, _| {
            let write = write.ok_or_else(|| Error::argument("no writer"))?;
            let bytes = component.save()?;
            match write(ctx, bytes.as_ptr().cast(), bytes.len()) {
                abi::OK => Ok(()),
                code => Err(Error::with_code(code, "the host did not take the state")),
            }
        })
    }
}

/// # Safety
/// As the header says of `load`.
unsafe extern "C-unwind" fn load<T: State>(
    instance: *mut abi::Instance,
    bytes: *const c_void,
    n: usize,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: `bytes` holds `n` bytes, by the header's contract.
    unsafe {
        instance::call_mut(instance, error, |component: &mut T, _| {
            let bytes = if n == 0 { &[] } else { std::slice::from_raw_parts(bytes.cast::<u8>(), n) };
            component.load(bytes)
        })
    }
}
