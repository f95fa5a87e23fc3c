//! All metrics of one checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use difflow_eval::{EvalError, Options, Places, Task as TaskFile};
use difflow_inference::documents;
use difflow_inference::{
    Answer, Asking, Batching, Decoding, Document, Estimate, Exchange, Gap, InferenceError, Nats, Noise, Reading,
    Session, Task,
};
use difflow_node_kit::record::deciding;
use difflow_node_kit::{Problem, Problems};
use difflow_schema::{Checkpoint, Scored, Scores};
use difflow_text::{Gap as GapText, read_gaps};
use eyre::{Context, Result};

use crate::config::Config;
use crate::heldout::Heldout;

/// The questions, ready to be put to any checkpoint.
pub struct Evaluation {
    config: Config,
    gaps: Vec<GapText>,
    tasks: Vec<TaskFile>,
}

/// The questions as one checkpoint's tokenizer spells them.
struct Questions {
    documents: Vec<Task>,
    /// Of conversations: the tokens of each answer.
    answers: Vec<u64>,
    cut: usize,
    gaps: Vec<Task>,
}

impl Evaluation {
    /// Looks at device, documents and gaps. Errors with [`Problems`] that name the key of whatever is missing or wrong.
    pub fn open(config: Config) -> Result<Self, Problems> {
        config.compute.check().map_err(|e| Problem::new("DEVICE", &config.compute.device, e.to_string()))?;
        let (gaps, tasks) = (gaps(&config)?, tasks(&config)?);
        let evaluation = Self { config, gaps, tasks };
        if !evaluation.config.heldout.is_empty() {
            evaluation.heldout().look()?;
        }
        Ok(evaluation)
    }

    /// The most of the time that this takes while the run trains.
    pub fn share(&self) -> f64 {
        self.config.compute.share()
    }

    /// Scores a checkpoint; `go_on` is asked before every batch. Errors if the checkpoint cannot be loaded, the run has no held-out
    /// documents, or with the error of `go_on`.
    pub fn score(&self, checkpoint: &Checkpoint, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Scores> {
        let start = Instant::now();
        if self.config.heldout.is_empty() {
            documents::wait_for(&self.config.run.dir().heldout(), go_on)?;
        }
        let session = Session::open(Path::new(&checkpoint.path), &self.config.compute.opening())
            .with_context(|| format!("checkpoint of step {}", checkpoint.step))?;
        let questions = self.questions(&session)?;
        let mut metrics = self.measure(&session, &questions, go_on)?;
        metrics.extend(self.by_tasks(&session, "task", go_on)?);
        if checkpoint.step == 0 {
            let peers = session.peers();
            // Both in memory at once might be too much.
            drop(session);
            if let Some(base) = peers.base().context("the base model of the run")? {
                metrics.extend(self.measure(&base, &questions, go_on)?);
                metrics.extend(self.by_tasks(&base, "base", go_on)?);
            }
        }
        let finite = |value: f64| value.is_finite().then_some(value);
        Ok(Scores {
            step: checkpoint.step,
            checkpoint_sha256: checkpoint.sha256.clone(),
            tokens_seen: checkpoint.tokens_seen,
            settings: deciding(&self.config),
            metrics: metrics.into_iter().map(|(name, value)| (name, finite(value))).collect(),
            seconds: start.elapsed().as_secs_f64(),
            content: Scored {
                documents: questions.documents.len(),
                documents_cut: questions.cut,
                gaps: questions.gaps.len(),
            },
        })
    }

    /// The numbers of a diffusion model, or those of one that reads from left to right.
    fn measure(
        &self,
        session: &Session,
        questions: &Questions,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<BTreeMap<String, f64>> {
        let config = &self.config;
        let asking = Asking {
            reading: Reading::Trained,
            decoding: Decoding::surest_first(),
            noise: Noise { seed: config.eval_seed, draws: config.eval_draws },
            batching: Batching::Rows(config.eval_batch),
            rows: config.eval_batch,
        };
        let mut ask = |tasks: &[Task]| session.answer(tasks, &asking, &mut |_| go_on());
        let estimate = questions.nats(ask(&questions.documents)?);
        // A model that writes block by block has seen what stands behind a gap only if it was trained on whole rows, too.
        let blind = session.blocks().is_some() && !session.fills_gaps();
        let filled = if blind { Vec::new() } else { ask(&questions.gaps)? };
        let right =
            filled.iter().filter(|answer| matches!(answer, Answer::Gap(gap) if gap.exact == Some(true))).count();
        let share = (!filled.is_empty()).then(|| right as f64 / filled.len() as f64);
        let mut metrics = BTreeMap::new();
        if session.left_to_right() {
            metrics.insert("ar_loss", estimate.value);
            metrics.extend(share.map(|share| ("ar_infill_exact_match", share)));
        } else {
            metrics.insert("nelbo", estimate.value);
            metrics.extend(estimate.stderr.map(|stderr| ("nelbo_stderr", stderr)));
            let entropy = session.facts().length_entropy;
            metrics.extend(entropy.map(|entropy| ("nelbo_with_length", estimate.with_length(entropy))));
            metrics.extend(share.map(|share| ("infill_exact_match", share)));
            let blocks = session.config().adapted.as_ref().and_then(|adapted| adapted.blocks);
            if blocks.is_some_and(|blocks| blocks.ar_weight > 0.0) {
                let asking = Asking { reading: Reading::LeftToRight, ..asking };
                let nats = session.answer(&questions.documents, &asking, &mut |_| go_on())?;
                metrics.insert("own_ar_loss", questions.nats(nats).value);
            }
        }
        Ok(metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The figures of TASKS, as `PREFIX/TASK/METRIC`, and of the checkpoint their mean.
    fn by_tasks(
        &self,
        session: &Session,
        prefix: &str,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<BTreeMap<String, f64>> {
        let (mut metrics, mut shares) = (BTreeMap::new(), Vec::new());
        let options = Options {
            seed: self.config.eval_seed,
            limit: Some(self.config.task_questions),
            draws: Some(self.config.task_draws),
            rows: self.config.eval_batch,
            ..Options::default()
        };
        for task in &self.tasks {
            let wrong = |e: EvalError| Problems::from(Problem::new("TASKS", &task.name, e.to_string()));
            let evaluation = difflow_eval::Evaluation::prepare(task, session, &options).map_err(wrong)?;
            let mut stopped = None;
            let outcome = evaluation.run(None, "", &mut |_| {
                go_on().map_err(|e| {
                    stopped = Some(e);
                    EvalError::Stopped
                })
            });
            if let Some(stopped) = stopped {
                return Err(stopped);
            }
            let outcome = outcome.with_context(|| format!("task {}", task.name))?;
            for (name, figure) in &outcome.figures {
                let name = name.strip_suffix(",none").unwrap_or(name).replace(',', "_");
                metrics.insert(format!("{prefix}/{}/{name}", task.name), figure.value);
            }
            shares.extend(outcome.share(task));
        }
        if prefix == "task" && !shares.is_empty() {
            metrics.insert("task_score".to_owned(), shares.iter().sum::<f64>() / shares.len() as f64);
        }
        Ok(metrics)
    }

    fn questions(&self, session: &Session) -> Result<Questions> {
        let (words, longest) = (session.words(), session.sequence_length());
        let mut documents = Vec::new();
        let mut answers = Vec::new();
        if let Some(chat) = session.chat()? {
            for conversation in self.heldout().conversations()? {
                let Exchange { document, answer } = chat.exchange(&conversation)?;
                // Nothing of an answer can be left out.
                if document.tokens.len() <= longest {
                    documents.push(document);
                    answers.push(answer);
                }
            }
        } else {
            for text in self.heldout().texts()? {
                documents.push(Document::new([vec![words.bos], words.encode(&text)?, vec![words.eos]].concat()));
            }
        }
        let cut = documents.iter().filter(|document| document.tokens.len() > longest).count();
        documents.iter_mut().for_each(|document| document.tokens.truncate(longest));
        let gaps = self.gaps.iter().map(|gap| Ok(Task::Gap(Gap::of_text(gap, words).map_err(InferenceError::from)?)));
        let documents = documents.into_iter().map(Task::Likelihood).collect();
        Ok(Questions { documents, answers, cut, gaps: gaps.collect::<Result<_>>()? })
    }

    fn heldout(&self) -> Heldout<'_> {
        Heldout { config: &self.config }
    }
}

impl Questions {
    /// What the documents' answers say. Of an answer that was filled up with end tokens, the tokens are those of the answer alone.
    fn nats(&self, answers: Vec<Answer>) -> Estimate {
        let mut nats = likelihoods(answers);
        nats.iter_mut().zip(&self.answers).for_each(|(nats, &answer)| nats.tokens = answer);
        Estimate::of(&nats)
    }
}

fn likelihoods(answers: Vec<Answer>) -> Vec<Nats> {
    let nats = answers.into_iter().filter_map(|answer| match answer {
        Answer::Likelihood(nats) => Some(nats),
        _ => None,
    });
    nats.collect()
}

fn tasks(config: &Config) -> Result<Vec<TaskFile>, Problems> {
    Places::near()
        .tasks(&config.task_names())
        .map_err(|e| Problem::new("TASKS", &config.tasks, format!("{e}; empty for none")).into())
}

fn gaps(config: &Config) -> Result<Vec<GapText>, Problems> {
    if config.infill.is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |why: String| Problems::from(Problem::new("INFILL", &config.infill, why));
    let mut gaps = read_gaps(Path::new(&config.infill)).map_err(|e| wrong(format!("{e}; empty for none")))?;
    if gaps.is_empty() {
        return Err(wrong("it has no lines; allowed: a file of gaps, or empty for none".into()));
    }
    gaps.truncate(config.eval_gaps);
    Ok(gaps)
}

#[cfg(test)]
#[path = "evaluation_tests.rs"]
mod tests;
