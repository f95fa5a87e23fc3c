//! What training on a GPU runs in place of several torch operations: one of difflow's CUDA kernels, or where there is none (on the CPU, in
//! tests) the same in torch's operations.

pub(crate) mod blocks;
mod documents;
mod graph;
mod library;
mod ops;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tch::Device;

use library::Kernels;

use crate::arithmetic::Arithmetic;

pub(crate) use documents::Documents;
pub(crate) use graph::{DeviceMemory, Graph};
pub(crate) use ops::cross_entropy;

/// The kernels for bf16 on a device, where the arithmetic wants them and they compile.
pub(crate) fn kernels(device: Device, how: Arithmetic) -> Option<Arc<Kernels>> {
    match device {
        Device::Cuda(index) if how.device_kernels && how.kind() == tch::Kind::BFloat16 => library::kernels(index).ok(),
        _ => None,
    }
}

/// Why a device has no kernels of difflow's, where it has none.
pub(crate) fn missing(index: usize) -> Option<String> {
    library::kernels(index).err()
}
