//! How a model is computed, as options of a command.

use clap::{Args, ValueEnum};
use difflow_inference::Precision;

/// Arithmetic and device of a model.
#[derive(Args)]
pub struct Arithmetic {
    /// Arithmetic of matrix products and attention.
    #[arg(long, value_enum, default_value_t = Dtype::Fp32)]
    dtype: Dtype,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    Fp32,
    Bf16,
}

impl Arithmetic {
    /// The arithmetic that --dtype names.
    pub fn precision(&self) -> Precision {
        match self.dtype {
            Dtype::Fp32 => Precision::Fp32,
            Dtype::Bf16 => Precision::Bf16,
        }
    }
}
