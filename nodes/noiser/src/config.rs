//! The noiser's keys.

use difflow_diffusion::{MIN_T, TimestepDraw};
use difflow_node_kit::Config as NodeConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the noiser can be told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    /// Key of all random numbers of the run.
    pub seed: u64,
    /// P(token kept) over t: a noise schedule of difflow (linear, cosine, geometric, log-linear, polynomial, clipped), or one of a
    /// plug-in, by path (`lib.so` or `lib.so#component`) or component id. `difflow plugin list` shows what there is.
    pub noise_schedule: String,
    /// Options of the noise schedule, as a JSON object; `difflow plugin show` explains them.
    pub noise_schedule_config: String,
    /// stratified: the t of a step's rows cover the range evenly. uniform: independent draws (the paper's code).
    pub timesteps: TimestepDraw,
    /// Smallest t: the loss weight of the linear schedule is 1/t.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub min_t: f64,
    /// Micro-batches per optimizer step: t is stratified over all of them.
    #[schemars(range(min = 1))]
    pub accumulation: u64,
    /// Batch transforms on the noised batches, in order: a JSON list of components, each a text or an object with `use` and
    /// `config`, such as `["builtin:span-mask"]`. Empty for none.
    pub transforms: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            noise_schedule: "linear".into(),
            noise_schedule_config: "{}".into(),
            timesteps: TimestepDraw::default(),
            min_t: MIN_T,
            accumulation: 1,
            transforms: String::new(),
        }
    }
}

impl NodeConfig for Config {}
