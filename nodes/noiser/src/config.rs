//! The noiser's keys.

use difflow_diffusion::{MIN_T, TimestepDraw};
use difflow_node_kit::{Config as NodeConfig, Preset, RunKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How t is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Timesteps {
    /// recommended: stratified. parity: uniform.
    #[default]
    Preset,
    /// The t of a step's rows cover the range evenly.
    Stratified,
    /// Independent draws, as the paper's code does.
    Uniform,
}

/// The first position of a row.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    /// recommended: clean. parity: maskable.
    #[default]
    Preset,
    /// Never masked: with shift the second token is predicted from it.
    Clean,
    /// May be masked like any other, though with shift it is never predicted, as in the paper's code.
    Maskable,
}

/// What the noiser can be told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Key of all random numbers of the run.
    pub seed: u64,
    /// P(token kept) over t: a noise schedule of difflow (linear, cosine, geometric, log-linear, polynomial, clipped), or one of a
    /// plug-in, by path (`lib.so` or `lib.so#component`) or component id. `difflow plugin list` shows what there is.
    pub noise_schedule: String,
    /// Options of the noise schedule, as a JSON object; `difflow plugin show` explains them.
    pub noise_schedule_config: String,
    /// Where keys that say `preset` get their value: recommended, or parity for what the paper's code does. Set it for all
    /// nodes: the trainer has such keys, too.
    pub preset: Preset,
    /// How t is drawn.
    pub timesteps: Timesteps,
    /// Whether the first position of a row may be masked.
    pub anchor: Anchor,
    /// Smallest t: the loss weight of the linear schedule is 1/t.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub min_t: f64,
    /// Weighs the loss of a masked token by the clean tokens of its document around it, in the place of the schedule's weight (CART of
    /// Dream, arXiv 2508.15487): a clean token at distance d counts p·(1 − p)^(d − 1) / 2, and this is p. The training loss is then no
    /// bound; the evaluator's is. Empty: the schedule's weight.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub context_weight: Option<f64>,
    /// Batch transforms on the noised batches, in order: a JSON list of components, each a text or an object with `use` and
    /// `config`, such as `["builtin:span-mask"]`. Empty for none.
    pub transforms: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunKeys::default(),
            seed: 0,
            noise_schedule: "linear".into(),
            noise_schedule_config: "{}".into(),
            preset: Preset::default(),
            timesteps: Timesteps::default(),
            anchor: Anchor::default(),
            min_t: MIN_T,
            context_weight: None,
            transforms: String::new(),
        }
    }
}

impl Config {
    /// The draw of t that TIMESTEPS or the preset asks for.
    pub fn timestep_draw(&self) -> TimestepDraw {
        match (self.timesteps, self.preset) {
            (Timesteps::Stratified, _) | (Timesteps::Preset, Preset::Recommended) => TimestepDraw::Stratified,
            (Timesteps::Uniform, _) | (Timesteps::Preset, Preset::Parity) => TimestepDraw::Uniform,
        }
    }

    /// True when the first position of a row may be masked.
    pub fn masks_first(&self) -> bool {
        match self.anchor {
            Anchor::Preset => self.preset == Preset::Parity,
            own => own == Anchor::Maskable,
        }
    }
}

impl NodeConfig for Config {
    fn run(&self) -> &RunKeys {
        &self.run
    }

    fn gone(key: &str) -> Option<&'static str> {
        (key == "ACCUMULATION").then_some("the trainer says it with its demand")
    }
}
