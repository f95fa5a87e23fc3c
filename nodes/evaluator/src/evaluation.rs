//! Everything that is measured on one checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use difflow_model::{Device, Loader, Model, ObjectiveKind, TorchPlugin};
use difflow_node_kit::{Problem, Problems};
use difflow_plugin_host::{ModelRecipe, NoiseSchedule};
use difflow_schema::Checkpoint;
use difflow_text::{Unfit, Words};
use eyre::{Context, Result};

use crate::config::Config;
use crate::heldout::Heldout;
use crate::infill::{Question, both_sides, left_only};
use crate::nelbo::{Noise, ar_loss, nelbo};
use crate::scores::Scores;

/// The questions, ready to be put to any checkpoint.
pub struct Evaluation {
    config: Config,
    loader: Loader,
    schedule: NoiseSchedule,
    words: Words,
    heldout: Heldout,
    questions: Vec<Question>,
}

impl Evaluation {
    /// Reads tokenizer, documents and gaps.
    ///
    /// # Errors
    /// [`Problems`] with the key of whatever is missing or wrong.
    pub fn open(config: Config) -> Result<Self> {
        let device = Device::open(&config.device)
            .map_err(|e| Problems::from(Problem::new("DEVICE", &config.device, e.to_string())))?;
        let schedule = NoiseSchedule::open(&config.noise_schedule, &config.noise_schedule_config).map_err(|e| {
            Problems::from(Problem::new(e.key("NOISE_SCHEDULE"), &config.noise_schedule, e.to_string()))
        })?;
        let recipe = ModelRecipe::named(&config.model_recipe, &config.model_recipe_config)
            .map_err(|e| Problems::from(Problem::new(e.key("MODEL_RECIPE"), &config.model_recipe, e.to_string())))?;
        let torch_model = TorchPlugin::named(&config.torch_model, &config.torch_model_config)
            .map_err(|e| Problems::from(Problem::new(e.key("TORCH_MODEL"), &config.torch_model, e.to_string())))?;
        let loader = Loader { recipe, torch_model, ..Loader::new(device) };
        let words = Words::open(&config.tokenizer, &config.bos_token, &config.eos_token).map_err(problems)?;
        let heldout = Heldout::read(&config, &words)?;
        let questions = questions(&config, &words)?;
        Ok(Self { config, loader, schedule, words, heldout, questions })
    }

    /// Scores a checkpoint; `go_on` is asked before every batch.
    ///
    /// # Errors
    /// When the checkpoint cannot be loaded, the tokenizer does not fit it, or `go_on` fails.
    pub fn score(&self, checkpoint: &Checkpoint, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Scores> {
        let start = Instant::now();
        let mut metrics = BTreeMap::new();
        let model = self
            .loader
            .checkpoint(Path::new(&checkpoint.path))
            .with_context(|| format!("checkpoint of step {}", checkpoint.step))?;
        self.words.fit(model.config().vocab_size).map_err(|unfit| problems(vec![unfit]))?;
        let left_to_right =
            model.config().adapted.as_ref().is_none_or(|adapted| adapted.objective == ObjectiveKind::Ar);
        if left_to_right {
            self.left_to_right(&model, &mut metrics, go_on)?;
        } else {
            self.diffusion(&model, &mut metrics, go_on)?;
        }
        drop(model);
        if checkpoint.step == 0 {
            let path = &self.config.base_model;
            let base = self.loader.base(Path::new(path));
            let base = base.map_err(|e| Problems::from(Problem::new("BASE_MODEL", path, e.to_string())))?;
            self.words.fit(base.config().vocab_size).map_err(|unfit| problems(vec![unfit]))?;
            self.left_to_right(&base, &mut metrics, go_on)?;
        }
        Ok(Scores {
            step: checkpoint.step,
            checkpoint_sha256: checkpoint.sha256.clone(),
            tokens_seen: checkpoint.tokens_seen,
            settings: self.config.settings(),
            documents: self.heldout.documents.len(),
            documents_cut: self.heldout.cut,
            gaps: self.questions.len(),
            metrics: metrics
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.is_finite().then_some(value)))
                .collect(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn diffusion(
        &self,
        model: &Model,
        metrics: &mut BTreeMap<&'static str, f64>,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let config = &self.config;
        let noise = Noise { schedule: &self.schedule, seed: config.eval_seed, draws: config.eval_draws };
        let bound = nelbo(model, &self.heldout.documents, noise, config.eval_batch, go_on)?;
        metrics.insert("nelbo", bound.value);
        metrics.extend(bound.stderr.map(|stderr| ("nelbo_stderr", stderr)));
        if !self.questions.is_empty() {
            let share = both_sides(model, &self.questions, &self.words, config.eval_batch, go_on)?;
            metrics.insert("infill_exact_match", share);
        }
        Ok(())
    }

    fn left_to_right(
        &self,
        model: &Model,
        metrics: &mut BTreeMap<&'static str, f64>,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let rows = self.config.eval_batch;
        metrics.insert("ar_loss", ar_loss(model, &self.heldout.documents, rows, go_on)?.value);
        if !self.questions.is_empty() {
            let share = left_only(model, &self.questions, &self.words, rows, go_on)?;
            metrics.insert("ar_infill_exact_match", share);
        }
        Ok(())
    }
}

fn problems(unfit: Vec<Unfit>) -> Problems {
    Problems(unfit.into_iter().map(|one| Problem::new(one.key, one.found, one.allowed)).collect())
}

fn questions(config: &Config, words: &Words) -> Result<Vec<Question>> {
    if config.infill.is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |why: String| Problems::from(Problem::new("INFILL", &config.infill, why));
    let gaps =
        difflow_world::read_gaps(Path::new(&config.infill)).map_err(|e| wrong(format!("{e}; empty for none")))?;
    if gaps.is_empty() {
        return Err(wrong("it has no lines; allowed: a file of gaps, or empty for none".into()).into());
    }
    gaps.iter().take(config.eval_gaps).map(|gap| Question::new(gap, words)).collect()
}

#[cfg(test)]
#[path = "evaluation_tests.rs"]
mod tests;
