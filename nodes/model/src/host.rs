//! Tensors as memory: views of fp32 tensors on the CPU, and copies from any device.

use std::cell::Cell;

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;

/// True for a contiguous fp32 tensor in host memory, which the CPU kernels can read as a slice.
pub(crate) fn is_plain(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous()
}

/// The values of a plain tensor.
pub(crate) fn values(tensor: &Tensor) -> Option<&[f32]> {
    // SAFETY: `numel` initialised fp32 values start at `data_ptr`, alive as long as the tensor.
    is_plain(tensor).then(|| unsafe { slice(tensor.data_ptr().cast::<f32>().cast_const(), tensor.numel()) })
}

/// The values of a plain tensor, to be written.
///
/// # Safety
/// No other slice of the same storage may be in use: tensors share memory.
pub(crate) unsafe fn values_mut(tensor: &mut Tensor) -> Option<&mut [f32]> {
    if tensor.numel() == 0 {
        return is_plain(tensor).then_some(&mut []);
    }
    // SAFETY: as above, and the caller's.
    is_plain(tensor).then(|| unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) })
}

/// An empty tensor has no memory, and a slice must not start at null.
///
/// # Safety
/// `count` values at `at`, if any, that live as long as the slice.
unsafe fn slice<'a>(at: *const f32, count: usize) -> &'a [f32] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(at, count) }
}

thread_local! {
    /// How often this thread has read values of a tensor back: on a GPU each waits for the device.
    static READS: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has read something back from where it was computed.
#[cfg(test)]
pub(crate) fn reads() -> u64 {
    READS.get()
}

pub(crate) fn count_read() {
    READS.set(READS.get() + 1);
}

/// fp32 values copied to host memory, in row-major order.
pub(crate) fn copied(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    count_read();
    let tensor = tensor.f_detach()?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0f32; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}

/// A tensor to be written by a kernel: contiguous fp32 in host memory, its content undefined.
pub(crate) fn blank(size: &[i64]) -> Result<Tensor, ModelError> {
    Ok(Tensor::f_empty(size, (Kind::Float, Device::Cpu))?)
}

/// The slice of a tensor that was checked, or made, to be plain.
pub(crate) fn read(tensor: &Tensor) -> Result<&[f32], ModelError> {
    values(tensor).ok_or_else(not_plain)
}

/// As [`read`], to be written.
///
/// # Safety
/// As [`values_mut`].
pub(crate) unsafe fn write(tensor: &mut Tensor) -> Result<&mut [f32], ModelError> {
    // SAFETY: the caller's.
    unsafe { values_mut(tensor) }.ok_or_else(not_plain)
}

fn not_plain() -> ModelError {
    ModelError::Torch("a CPU kernel was given a tensor that is not contiguous fp32 on the CPU".to_owned())
}
