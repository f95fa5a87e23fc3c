//! Kind: batch transform.

use std::sync::PoisonError;

use crate::abi::{self, ArrowArray, ArrowSchema, Status};
use crate::batch::Field;
use crate::{Batch, Error, batch_read, batch_write, instance};

/// Changes batches on their way. A pure function of (seq, seed, batch): a batch may be asked for twice.
pub trait BatchTransform: Sized + Send + 'static {
    /// Whether batches with these columns can be worked on.
    ///
    /// # Errors
    /// [`Error::incompatible`], naming the column that is missing or has another type.
    fn accepts(&self, fields: &[Field]) -> Result<(), Error>;

    /// The changed batch: the same columns, any number of rows. `seq` numbers the batch, `seed` is the run's.
    ///
    /// # Errors
    /// When this batch cannot be worked on; the run then ends.
    fn process(&mut self, seq: u64, seed: u64, batch: Batch) -> Result<Batch, Error>;
}

/// The table of `T`.
pub fn table<T: BatchTransform>() -> &'static abi::BatchTransform {
    const {
        &abi::BatchTransform {
            struct_size: size_of::<abi::BatchTransform>() as u32,
            output_schema: Some(output_schema::<T>),
            process: Some(process::<T>),
        }
    }
}

/// # Safety
/// As the header says of `output_schema`.
unsafe extern "C-unwind" fn output_schema<T: BatchTransform>(
    instance: *const abi::Instance,
    from: *const ArrowSchema,
    out: *mut ArrowSchema,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call(instance, error, |transform: &T, boxed| {
            let fields = batch_read::fields(from)?;
            transform.accepts(&fields)?;
            *boxed.fields.lock().unwrap_or_else(PoisonError::into_inner) = fields;
            out.write(batch_write::copy_schema(from));
            Ok(())
        })
    }
}

/// Releases a moved array when it goes out of scope, however that comes about.
struct Moved(*mut ArrowArray);

impl Drop for Moved {
    fn drop(&mut self) {
        // SAFETY: the host moved the array here; nobody else releases it.
        unsafe {
            if let Some(release) = (*self.0).release {
                release(self.0);
            }
        }
    }
}

/// # Safety
/// As the header says of `process`.
unsafe extern "C-unwind" fn process<T: BatchTransform>(
    instance: *mut abi::Instance,
    seq: u64,
    seed: u64,
    from: *mut ArrowArray,
    out: *mut ArrowArray,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract; `from` is of the schema that `output_schema` was shown.
    unsafe {
        let moved = Moved(from);
        instance::call_mut(instance, error, |transform: &mut T, fields| {
            let batch = batch_read::read(&*moved.0, fields)?;
            drop(moved);
            out.write(batch_write::write(transform.process(seq, seed, batch)?, fields)?);
            Ok(())
        })
    }
}
