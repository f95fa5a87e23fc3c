//! Letting a checkpoint write.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use difflow_model::{
    Budget, Decoded, Device, DiffusionDecoding, Generation, Loader, Model, ObjectiveKind, Positions, Prompt, Reveals,
    Sampling, TorchPlugin,
};
use difflow_node_kit::{Problem, Problems};
use difflow_plugin_host::ModelRecipe;
use difflow_schema::{Checkpoint, Unmasked};
use difflow_text::{Lengths, Unfit, Words, distinct, entropy, repetition};
use difflow_world::Gap;
use eyre::{Context, Result};

use crate::config::{Config, Decoder};
use crate::jobs::{self, Job};
use crate::texts::{Text, Texts};
use crate::verdict;

/// Everything that is needed to let any checkpoint write.
pub struct Sampler {
    config: Config,
    lengths: Lengths,
    loader: Loader,
    words: Words,
    gaps: Vec<Gap>,
}

impl Sampler {
    /// Reads tokenizer and gaps.
    ///
    /// # Errors
    /// [`Problems`] with the key of whatever is missing or wrong.
    pub fn open(config: Config) -> Result<Self, Problems> {
        let device = Device::open(&config.device).map_err(|e| Problem::new("DEVICE", &config.device, e.to_string()))?;
        let lengths = Lengths::parse(&config.lengths)
            .ok_or_else(|| Problem::new("LENGTHS", &config.lengths, "allowed: two numbers such as 80..125"))?;
        let recipe = ModelRecipe::named(&config.model_recipe, &config.model_recipe_config)
            .map_err(|e| Problem::new(e.key("MODEL_RECIPE"), &config.model_recipe, e.to_string()))?;
        let torch_model = TorchPlugin::named(&config.torch_model, &config.torch_model_config)
            .map_err(|e| Problem::new(e.key("TORCH_MODEL"), &config.torch_model, e.to_string()))?;
        let loader = Loader { recipe, torch_model, ..Loader::new(device) };
        let words = Words::open(&config.tokenizer, &config.bos_token, &config.eos_token).map_err(problems)?;
        let mut gaps = Vec::new();
        if !config.infill.is_empty() && config.infill_samples > 0 {
            gaps = difflow_world::read_gaps(Path::new(&config.infill))
                .map_err(|e| Problem::new("INFILL", &config.infill, format!("{e}; empty for none")))?;
            gaps.truncate(config.infill_samples);
        }
        Ok(Self { config, lengths, loader, words, gaps })
    }

    /// Texts of a checkpoint; `go_on` is asked before every batch.
    ///
    /// # Errors
    /// When the checkpoint cannot be loaded, a key does not fit it, or `go_on` fails.
    pub fn write(&self, checkpoint: &Checkpoint, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Texts> {
        let start = Instant::now();
        let model = self
            .loader
            .checkpoint(Path::new(&checkpoint.path))
            .with_context(|| format!("checkpoint of step {}", checkpoint.step))?;
        self.words.fit(model.config().vocab_size).map_err(|unfit| problems(vec![unfit]))?;
        self.fit(&model)?;
        // A model without a mask token was never adapted.
        let left_to_right =
            model.config().adapted.as_ref().is_none_or(|adapted| adapted.objective == ObjectiveKind::Ar);
        let mut all = jobs::unconditional(&self.config, self.lengths, &self.words, self.config.count(checkpoint.step));
        if !left_to_right {
            // Only a diffusion model sees what stands right of a gap.
            all.extend(jobs::infillings(&self.gaps, &self.words)?);
        }
        let (mut samples, mut written) = (Vec::with_capacity(all.len()), Vec::new());
        for chunk in
            all.chunk_by(|a, b| a.gap.is_some() == b.gap.is_some()).flat_map(|c| c.chunks(self.config.sample_batch))
        {
            go_on()?;
            let began = Instant::now();
            let filled = if left_to_right { self.generate(&model, chunk)? } else { self.decode(&model, chunk)? };
            let seconds = began.elapsed().as_secs_f64() / chunk.len() as f64;
            for (job, filled) in chunk.iter().zip(filled) {
                samples.push(self.text(job, &filled, seconds)?);
                if job.gap.is_none() {
                    written.push(job.whole(filled.tokens, self.words.eos));
                }
            }
        }
        drop(model);
        let mut metrics = metrics(&samples, &written);
        metrics.extend(self.judge(&written)?.map(|value| ("judge_perplexity".to_owned(), Some(value))));
        Ok(Texts {
            step: checkpoint.step,
            checkpoint_sha256: checkpoint.sha256.clone(),
            tokens_seen: checkpoint.tokens_seen,
            settings: self.config.settings(checkpoint.step),
            metrics,
            samples,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// A model with a table of positions cannot write beyond it.
    fn fit(&self, model: &Model) -> Result<(), Problems> {
        let longest = model.config().max_positions;
        if model.config().positions != Positions::Learned || self.lengths.high < longest {
            return Ok(());
        }
        let allowed = format!("allowed: at most {}, the positions of the model less the anchor", longest - 1);
        Err(Problem::new("LENGTHS", &self.config.lengths, allowed).into())
    }

    fn sampling(&self) -> Sampling {
        let Config { temperature, top_p, top_k, repetition_penalty, .. } = self.config;
        Sampling { temperature, top_p, top_k, repetition_penalty }
    }

    fn decode(&self, model: &Model, jobs: &[Job]) -> Result<Vec<Decoded>> {
        let config = &self.config;
        let infilling = jobs.iter().any(|job| job.gap.is_some());
        let (steps, score) = (config.diffusion_steps, config.score);
        let reveals = match config.decoder {
            Decoder::Random => Reveals::Random { steps },
            Decoder::FirstHitting => Reveals::FirstHitting,
            Decoder::Confidence | Decoder::Greedy => Reveals::Confidence { score, budget: Budget::Steps(steps) },
            Decoder::Threshold => Reveals::Threshold { score, threshold: config.threshold, window: config.window },
        };
        let sampling = match config.decoder {
            Decoder::Greedy => Sampling { temperature: 0.0, ..self.sampling() },
            _ => self.sampling(),
        };
        let shift = model.config().adapted.as_ref().is_none_or(|adapted| adapted.shift);
        let options = match infilling {
            true => DiffusionDecoding::surest_first(shift),
            false => DiffusionDecoding {
                reveals,
                sampling,
                seed: config.seed,
                shift,
                block: config.block,
                cache: config.cache,
                stop: vec![self.words.eos],
                ..DiffusionDecoding::default()
            },
        };
        let canvases: Vec<_> = jobs.iter().map(|job| job.canvas.clone()).collect();
        Ok(model.decode(&canvases, &options)?)
    }

    /// The same texts from a model that was trained left to right; a text may then end early, and is at most as long as the longest.
    fn generate(&self, model: &Model, jobs: &[Job]) -> Result<Vec<Decoded>> {
        let prompt = |job: &Job| Prompt { tokens: vec![self.words.bos], key: job.canvas.key };
        let prompts: Vec<Prompt> = jobs.iter().map(prompt).collect();
        let (seed, stop) = (self.config.seed, vec![self.words.eos]);
        let options = Generation { max_new_tokens: self.lengths.high, sampling: self.sampling(), seed, stop };
        let texts = model.generate(&prompts, &options)?.into_iter();
        let filled = texts.map(|text| {
            let tokens = std::iter::once(self.words.bos).chain(text.tokens).collect();
            Decoded { tokens, nfe: text.nfe, history: Vec::new(), stopped: text.stopped }
        });
        Ok(filled.collect())
    }

    fn text(&self, job: &Job, filled: &Decoded, seconds: f64) -> Result<Text> {
        let tokens = job.text(&filled.tokens, self.words.eos);
        let text = self.words.decode(tokens)?;
        let (kind, verdict) = match &job.gap {
            None => ("unconditional", verdict::of_text(self.config.checker, &text)),
            Some(gap) => ("infill", verdict::of_filling(gap, &self.words.decode(&job.filling(&filled.tokens))?)),
        };
        let history = if filled.history.is_empty() { Vec::new() } else { self.history(filled, tokens.len())? };
        let (index, nfe) = (job.canvas.key, u64::from(filled.nfe));
        Ok(Text { index, kind: kind.to_owned(), prompt: job.prompt(), text, verdict, nfe, seconds, history })
    }

    /// The first `length` tokens behind the anchor, and when each was revealed.
    fn history(&self, filled: &Decoded, length: usize) -> Result<Vec<Unmasked>> {
        let of = |at: usize| filled.history.iter().find(|reveal| reveal.position as usize == at);
        let token = |at: usize| {
            let text = self.words.decode_inner(&filled.tokens[at..=at])?;
            let (step, probability) = of(at).map(|reveal| (reveal.step, reveal.probability)).unzip();
            Ok(Unmasked { text, step, probability })
        };
        (1..=length).map(token).collect()
    }

    /// Perplexity of what was written, anchor and end included, under the base model; `None` without one.
    fn judge(&self, written: &[Vec<u32>]) -> Result<Option<f64>> {
        let path = &self.config.base_model;
        let has_weights = ["model.safetensors", "model.safetensors.index.json"].iter();
        if written.is_empty() || !has_weights.into_iter().any(|name| Path::new(path).join(name).exists()) {
            return Ok(None);
        }
        let base = self
            .loader
            .base(Path::new(path))
            .map_err(|e| Problems::from(Problem::new("BASE_MODEL", path, format!("{e}; empty for no judge"))))?;
        self.words.fit(base.config().vocab_size).map_err(|unfit| problems(vec![unfit]))?;
        Ok(Some(base.perplexity(written, self.config.sample_batch)?))
    }
}

fn problems(unfit: Vec<Unfit>) -> Problems {
    Problems(unfit.into_iter().map(|one| Problem::new(one.key, one.found, one.allowed)).collect())
}

/// pass_rate and samples_checked where texts from nothing were checked, and how varied they are where there are any.
fn metrics(samples: &[Text], tokens: &[Vec<u32>]) -> BTreeMap<String, Option<f64>> {
    let written: Vec<&Text> = samples.iter().filter(|sample| sample.kind == "unconditional").collect();
    let checked = written.iter().filter(|sample| !sample.verdict.is_empty()).count();
    let passed = written.iter().filter(|sample| sample.verdict == verdict::OK).count();
    let mut metrics = BTreeMap::new();
    if !written.is_empty() {
        let texts = || written.iter().map(|sample| sample.text.as_str());
        for (name, n) in [("distinct_1", 1), ("distinct_2", 2), ("distinct_3", 3)] {
            metrics.insert(name, distinct(n, texts()));
        }
        metrics.insert("entropy", entropy(tokens));
        metrics.insert("repetition", repetition(tokens));
        metrics.insert("nfe", written.iter().map(|sample| sample.nfe as f64).sum::<f64>() / written.len() as f64);
    }
    if checked > 0 {
        metrics.insert("pass_rate", passed as f64 / checked as f64);
        metrics.insert("samples_checked", checked as f64);
    }
    metrics.into_iter().map(|(name, value)| (name.to_owned(), value.is_finite().then_some(value))).collect()
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
