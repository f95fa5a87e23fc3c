//! Letting a checkpoint write.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use difflow_model::{
    Budget, Decoded, Device, DiffusionDecoding, Generation, Model, Positions, Prompt, Reveals, Sampling, Score,
};
use difflow_node_kit::{Problem, Problems};
use difflow_plugin_host::NoiseSchedule;
use difflow_schema::Checkpoint;
use difflow_world::Gap;
use eyre::{Context, Result};

use crate::config::{Config, Decoder};
use crate::jobs::{self, Job};
use crate::lengths::Lengths;
use crate::texts::{History, Revealed, Text, Texts};
use crate::verdict;
use crate::words::Words;

/// Everything that is needed to let any checkpoint write.
pub struct Sampler {
    config: Config,
    lengths: Lengths,
    schedule: NoiseSchedule,
    device: Device,
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
        let schedule = NoiseSchedule::open(&config.noise_schedule, &config.noise_schedule_config)
            .map_err(|e| Problem::new(e.key("NOISE_SCHEDULE"), &config.noise_schedule, e.to_string()))?;
        let words = Words::open(&config.tokenizer, &config.bos_token, &config.eos_token)?;
        let mut gaps = Vec::new();
        if !config.infill.is_empty() && config.infill_samples > 0 {
            gaps = difflow_world::read_gaps(Path::new(&config.infill))
                .map_err(|e| Problem::new("INFILL", &config.infill, format!("{e}; empty for none")))?;
            gaps.truncate(config.infill_samples);
        }
        Ok(Self { config, lengths, schedule, device, words, gaps })
    }

    /// Texts of a checkpoint; `go_on` is asked before every batch.
    ///
    /// # Errors
    /// When the checkpoint cannot be loaded, a key does not fit it, or `go_on` fails.
    pub fn write(&self, checkpoint: &Checkpoint, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Texts> {
        let start = Instant::now();
        let model = Model::load(Path::new(&checkpoint.path), self.device)
            .with_context(|| format!("checkpoint of step {}", checkpoint.step))?;
        self.words.fit(&model)?;
        self.fit(&model)?;
        // A model without a mask token was never adapted.
        let left_to_right = model.config().adapted.as_ref().is_none_or(|adapted| adapted.objective == "ar");
        let mut all = jobs::unconditional(&self.config, self.lengths, &self.words, self.config.count(checkpoint.step));
        if !left_to_right {
            // Only a diffusion model sees what stands right of a gap.
            all.extend(jobs::infillings(&self.gaps, &self.words)?);
        }
        let mut samples = Vec::with_capacity(all.len());
        for chunk in
            all.chunk_by(|a, b| a.gap.is_some() == b.gap.is_some()).flat_map(|c| c.chunks(self.config.sample_batch))
        {
            go_on()?;
            let began = Instant::now();
            let filled = if left_to_right { self.generate(&model, chunk)? } else { self.decode(&model, chunk)? };
            let seconds = began.elapsed().as_secs_f64() / chunk.len() as f64;
            for (job, filled) in chunk.iter().zip(filled) {
                samples.push(self.text(job, &filled, seconds, samples.is_empty())?);
            }
        }
        Ok(Texts {
            step: checkpoint.step,
            checkpoint_sha256: checkpoint.sha256.clone(),
            tokens_seen: checkpoint.tokens_seen,
            settings: self.config.settings(checkpoint.step),
            metrics: metrics(&samples),
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
        Sampling { temperature: self.config.temperature, top_p: self.config.top_p, top_k: None }
    }

    fn decode(&self, model: &Model, jobs: &[Job]) -> Result<Vec<Decoded>> {
        let config = &self.config;
        let infilling = jobs.iter().any(|job| job.gap.is_some());
        let reveals = match config.decoder {
            _ if infilling => Reveals::Confidence { score: Score::Probability, budget: Budget::PerStep(1) },
            Decoder::Random => Reveals::Random { steps: config.diffusion_steps },
            Decoder::Confidence => {
                Reveals::Confidence { score: config.score.into(), budget: Budget::Steps(config.diffusion_steps) }
            }
        };
        let sampling = if infilling { Sampling::GREEDY } else { self.sampling() };
        let shift = model.config().adapted.as_ref().is_none_or(|adapted| adapted.shift);
        let options = DiffusionDecoding { reveals, sampling, seed: config.seed, shift };
        let canvases: Vec<_> = jobs.iter().map(|job| job.canvas.clone()).collect();
        Ok(self.schedule.as_function(|alpha| model.decode(&canvases, &options, alpha))??)
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
            Decoded { tokens, nfe: text.nfe, history: Vec::new() }
        });
        Ok(filled.collect())
    }

    fn text(&self, job: &Job, filled: &Decoded, seconds: f64, first: bool) -> Result<Text> {
        let text = self.words.decode(job.text(&filled.tokens, self.words.eos))?;
        let (kind, verdict) = match &job.gap {
            None => ("unconditional", verdict::of_text(self.config.checker, &text)),
            Some(gap) => ("infill", verdict::of_filling(gap, &self.words.decode(&job.filling(&filled.tokens))?)),
        };
        let history = (first && !filled.history.is_empty()).then(|| self.history(filled)).transpose()?;
        let (index, nfe) = (job.canvas.key, u64::from(filled.nfe));
        Ok(Text { index, kind: kind.to_owned(), prompt: job.prompt(), text, verdict, nfe, seconds, history })
    }

    fn history(&self, filled: &Decoded) -> Result<History> {
        let revealed = |reveal: &difflow_model::Reveal| {
            let text = self.words.decode(&[reveal.token])?;
            Ok(Revealed { step: reveal.step, position: reveal.position, token: reveal.token, text })
        };
        let reveals = filled.history.iter().map(revealed).collect::<Result<_>>()?;
        Ok(History { length: filled.tokens.len(), reveals })
    }
}

/// pass_rate and samples_checked where texts from nothing were checked, and distinct_2 where there are any.
fn metrics(samples: &[Text]) -> BTreeMap<String, Option<f64>> {
    let written: Vec<&Text> = samples.iter().filter(|sample| sample.kind == "unconditional").collect();
    let checked = written.iter().filter(|sample| !sample.verdict.is_empty()).count();
    let passed = written.iter().filter(|sample| sample.verdict == verdict::OK).count();
    let mut metrics = BTreeMap::new();
    if !written.is_empty() {
        metrics.insert("distinct_2", verdict::distinct_2(written.iter().map(|sample| sample.text.as_str())));
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
