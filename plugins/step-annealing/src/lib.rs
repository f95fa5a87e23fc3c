//! An annealing schedule as a plug-in: causal for a while, then half open, then full.

use difflow_plugin_sdk::{AnnealingSchedule, Component, Error, config, plugin};

config! {
    pub struct Options {
        /// Optimizer step at which attention opens half. The key ANNEAL_STEPS stands for the end.
        half_at: u64 = 50;
        /// Optimizer steps until attention is full.
        anneal_steps: u64 = 150, minimum 1;
    }
}

pub struct Step {
    half_at: u64,
    full_at: u64,
}

impl Component for Step {
    type Config = Options;

    fn create(options: Options) -> Result<Self, Error> {
        let Options { half_at, anneal_steps } = options;
        if half_at > anneal_steps {
            return Err(Error::config("/half_at", format!("found {half_at}; at most anneal_steps ({anneal_steps})")));
        }
        Ok(Self { half_at, full_at: anneal_steps })
    }
}

impl AnnealingSchedule for Step {
    fn attn_mask_ratio(&self, step: u64) -> f64 {
        match step {
            step if step >= self.full_at => 1.0,
            step if step >= self.half_at => 0.5,
            _ => 0.0,
        }
    }
}

plugin! {
    annealing_schedule Step {
        id: "org.difflow.examples.step-annealing",
        name: "Two steps",
        vendor: "difflow",
        license: "Apache-2.0",
        description: "Causal, then half open, then full"
    }
}
