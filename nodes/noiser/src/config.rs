//! The noiser's keys.

use difflow_diffusion::{MIN_T, NoiseSchedule, TimestepDraw};
use difflow_node_kit::Config as NodeConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the noiser can be told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    /// Key of all random numbers of the run.
    pub seed: u64,
    /// P(token kept) over t: linear is 1 − t (the paper), cosine is cos²(πt/2).
    pub noise_schedule: NoiseSchedule,
    /// stratified: the t of a step's rows cover the range evenly. uniform: independent draws (the paper's code).
    pub timesteps: TimestepDraw,
    /// Smallest t: the loss weight of the linear schedule is 1/t.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub min_t: f64,
    /// Micro-batches per optimizer step: t is stratified over all of them.
    #[schemars(range(min = 1))]
    pub accumulation: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            noise_schedule: NoiseSchedule::default(),
            timesteps: TimestepDraw::default(),
            min_t: MIN_T,
            accumulation: 1,
        }
    }
}

impl NodeConfig for Config {}
