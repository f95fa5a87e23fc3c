//! How a forward computes. It is passed to each forward; a decoder stores none of it.

use tch::Kind;

use crate::device::Device;

/// Arithmetic of matrix products and attention. Master weights, norms, losses and optimizer state are fp32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    #[default]
    Fp32,
    Bf16,
}

/// How a forward computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arithmetic {
    pub precision: Precision,
    /// difflow's own kernels where there are any, which is on the CPU. Off, everything is torch operations: to measure one against the
    /// other.
    pub kernels: bool,
    /// The same on a GPU: difflow's own CUDA kernels, for bf16.
    pub device_kernels: bool,
    /// Share of activations dropped, at GPT-2's places. Attention then runs on torch's kernels.
    pub dropout: f64,
    /// Share of the inputs of an adapter that is dropped.
    pub adapter_dropout: f64,
    /// Activation checkpointing: blocks are computed again in the backward pass, which saves the memory of their activations. The
    /// gradients are the same.
    pub recompute: bool,
    /// The shapes of a step's operations depend on its batch as little as they can: what varies is filled up with positions of weight 0 and
    /// empty documents. On a GPU, so that a step can be recorded once and done again.
    pub fixed_shapes: bool,
}

impl Arithmetic {
    /// What a model on a device begins with: fp32 and the device's best kernels.
    pub fn of(device: Device) -> Self {
        let host = device == Device::Cpu;
        Self {
            precision: Precision::Fp32,
            kernels: host,
            device_kernels: !host,
            dropout: 0.0,
            adapter_dropout: 0.0,
            recompute: false,
            fixed_shapes: !host,
        }
    }

    /// Element type of matrix products and attention.
    pub(crate) fn kind(&self) -> Kind {
        match self.precision {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        }
    }
}
