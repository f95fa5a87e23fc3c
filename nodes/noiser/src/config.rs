//! The noiser's keys.

use difflow_diffusion::{BlockSizes, MIN_T, TimestepDraw};
use difflow_node_kit::{Config as NodeConfig, Preset, Problem, RunKeys};
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
    /// For OBJECTIVE: block of the trainer: positions of a block, counted from the first token of each document. One size, one that grows
    /// by doubling (`4..16`), or several with weights, drawn for each row (`4:2,16:1,row:1`); `row` is a row that is not cut, noised and
    /// trained as for OBJECTIVE: diffusion. Empty: rows have no blocks.
    pub block_size: String,
    /// How a size `4..16` grows over the optimizer steps: an annealing schedule (see ANNEALING_SCHEDULE of the trainer) without state, by
    /// its share between 0 (the first size) and 1 (the last).
    pub block_growth: String,
    /// Options of that schedule, as a JSON object.
    pub block_growth_config: String,
    /// Optimizer steps until a size has grown to its last, for schedules with an option `anneal_steps` that the configuration does not set.
    #[schemars(range(min = 1))]
    pub block_growth_steps: u64,
    /// Smallest t of a block in training; rows that are not cut keep MIN_T. A narrow range makes gradients less noisy: 0.45 to 0.95 is usual
    /// for blocks of 4, 0.3 to 0.8 for 16. Scores always measure over the full range.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub block_min_t: f64,
    /// Largest t of a block in training.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub block_max_t: f64,
    /// true: each row is followed by the same row with the inverse mask, so that every maskable token is predicted exactly once in a batch,
    /// which has twice as many rows. Needs BLOCK_SIZE.
    pub complementary: bool,
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
            block_size: String::new(),
            block_growth: "linear".into(),
            block_growth_config: "{}".into(),
            block_growth_steps: 10_000,
            block_min_t: MIN_T,
            block_max_t: 1.0,
            complementary: false,
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

    fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.block_size.is_empty() {
            if self.complementary {
                let allowed = "allowed: false without BLOCK_SIZE (`BLOCK_SIZE: row` for rows that are not cut)";
                problems.push(Problem::new("COMPLEMENTARY", true, allowed));
            }
            return problems;
        }
        problems.extend(
            self.block_size
                .parse::<BlockSizes>()
                .err()
                .map(|wrong| Problem::new("BLOCK_SIZE", &self.block_size, wrong)),
        );
        if self.block_min_t >= self.block_max_t {
            let allowed = format!("allowed: above BLOCK_MIN_T ({})", self.block_min_t);
            problems.push(Problem::new("BLOCK_MAX_T", self.block_max_t, allowed));
        }
        if let Some(p) = self.context_weight {
            let allowed = "not together with BLOCK_SIZE: a block does not see what is to its right";
            problems.push(Problem::new("CONTEXT_WEIGHT", p, allowed));
        }
        if !self.transforms.trim().is_empty() {
            let allowed = "allowed: none with BLOCK_SIZE: a batch transform takes one t for each row; \
                 data/experiments/tiny-diffusion.yml is an experiment without blocks";
            problems.push(Problem::new("TRANSFORMS", &self.transforms, allowed));
        }
        problems
    }

    fn gone(key: &str) -> Option<&'static str> {
        (key == "ACCUMULATION").then_some("the trainer says it with its demand")
    }
}
