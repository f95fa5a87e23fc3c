//! Where a model runs: keys that sampler and evaluator have in common.

use difflow_model::{Device, ModelError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Opening;

/// Where a model runs. It decides how fast results come, not what they are.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Compute {
    /// Where the model runs: auto, cpu, cuda or cuda:N.
    #[schemars(extend("x-may-change" = true))]
    pub device: String,
    /// On a GPU: the most of its memory that this node takes, as a share. Leave the trainer what it needs (`difflow plan`).
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0, "x-may-change" = true))]
    pub memory_fraction: f64,
    /// While the run trains, the most of the time that this node computes, as a share; it rests in between its batches. Not set: 0.25 on a
    /// GPU, which divides its time evenly among programs, and 1 on the CPU, where THREADS says how much this node takes.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0, "x-may-change" = true))]
    pub time_share: Option<f64>,
    /// CPU threads of one operation.
    #[schemars(range(min = 1, max = 1024), extend("x-may-change" = true))]
    pub threads: usize,
}

impl Default for Compute {
    fn default() -> Self {
        Self { device: "auto".into(), memory_fraction: 1.0, time_share: None, threads: 1 }
    }
}

impl Compute {
    /// Errors if there is no such device.
    pub fn check(&self) -> Result<(), ModelError> {
        Device::open(&self.device).map(|_| ())
    }

    /// Returns TIME_SHARE, or what it is where it is not set.
    pub fn share(&self) -> f64 {
        let usual = || match Device::open(&self.device) {
            Ok(Device::Cuda(_)) => 0.25,
            Ok(Device::Cpu) | Err(_) => 1.0,
        };
        self.time_share.unwrap_or_else(usual)
    }

    /// Returns the keys as options of a session.
    pub fn opening(&self) -> Opening {
        let (device, memory_fraction) = (self.device.clone(), self.memory_fraction);
        Opening { device, threads: Some(self.threads), memory_fraction, ..Opening::default() }
    }
}
