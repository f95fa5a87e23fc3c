//! The trainer's loop: ask, wait, step, measure, now and then a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use difflow_node_kit::{Event, Node, Problem, Problems, Puller};
use difflow_schema::run::{RunDir, file_sha256};
use difflow_schema::{Metrics, Noised};
use eyre::{Result, bail};

use crate::config::Config;
use crate::plugins::{self, Plugins};
use crate::preview::Previews;
use crate::record;
use crate::save::{self, Position};
use crate::training::{self, StepReport, Training};

/// Messages sent so far on the pushed outputs.
#[derive(Default)]
struct Sent {
    checkpoints: u64,
    metrics: u64,
}

/// How the wait for a batch ended.
enum Wait {
    Batch(Noised),
    /// Stop now, with what is done.
    Stop,
    /// The data ended, or its sender did.
    NoData,
}

/// Trains from the last good checkpoint of the run, or from the base model, to STEPS.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    difflow_model::set_num_threads(config.threads);
    let dir = config.run_dir();
    let plugins = plugins::of_dataflow(&node.dataflow()?, &config, &node.id());
    let _lock = record::claim(&dir, &node, inputs(&config)?, &plugins)?;
    let (mut training, mut position) = match save::last_good(&dir)? {
        Some(position) => (training::resume(&config, &dir.checkpoint(position.step))?, position),
        None => (training::begin(&config)?, Position::default()),
    };
    let mut sent = Sent::default();
    if position.step > 0 && dir.checkpoint(0).exists() {
        announce(&mut node, &dir, 0, &mut sent)?;
    }
    checkpoint(&mut node, &dir, (&mut training, &plugins), position, &mut sent)?;
    let window = config.prefetch.max(config.accumulation as u32);
    let patience = Duration::from_secs_f64(config.patience_seconds);
    let mut puller = Puller::<Noised>::new("noised", position.next_seq, window, patience);
    let mut previews = Previews::new(&node)?;
    let mut bad_steps = 0;
    while position.step < config.steps {
        let started = Instant::now();
        std::thread::sleep(Duration::from_secs_f64(config.slow_down_seconds));
        let (mut batches, mut waited) = (Vec::new(), Duration::ZERO);
        while (batches.len() as u64) < config.accumulation {
            let from = Instant::now();
            match wait(&mut node, &mut puller)? {
                Wait::Batch(batch) => batches.push(batch),
                Wait::Stop => return finish(&mut node, &dir, (&mut training, &plugins), position, &mut sent),
                Wait::NoData => {
                    finish(&mut node, &dir, (&mut training, &plugins), position, &mut sent)?;
                    eprintln!("warning: the data ended at step {} of {}", position.step, config.steps);
                    return Ok(());
                }
            }
            waited += from.elapsed();
        }
        puller.ask(&mut node)?;
        if let Some(batch) = batches.first() {
            previews.offer(&mut node, (&training, &config), position.step, batch)?;
        }
        let report = training.step(&config, position.step, batches)?;
        position.step += 1;
        position.tokens_seen += report.tokens;
        position.next_seq = puller.next_seq();
        bad_steps = if report.finite { 0 } else { bad_steps + 1 };
        let metrics = measured(&config, &report, position, (started.elapsed(), waited), (bad_steps, puller.repeats));
        node.send("metrics", sent.metrics, &metrics)?;
        sent.metrics += 1;
        if bad_steps >= config.max_bad_steps {
            let last = dir.checkpoint_steps()?.last().map(|&step| dir.checkpoint(step).display().to_string());
            bail!(
                "loss or gradient was not a number in {bad_steps} steps in a row; the last good checkpoint is {}; lower \
                 LEARNING_RATE or CLIP",
                last.unwrap_or_default()
            );
        }
        if position.step % config.checkpoint_every == 0 {
            checkpoint(&mut node, &dir, (&mut training, &plugins), position, &mut sent)?;
        }
    }
    finish(&mut node, &dir, (&mut training, &plugins), position, &mut sent)
}

/// The next batch, asking for it as long as needed.
fn wait(node: &mut Node, puller: &mut Puller<Noised>) -> Result<Wait> {
    let mut look = Some(Duration::ZERO);
    loop {
        // Everything that has come in is looked at first, so that a stop is heard between any two batches.
        match node.next(look)? {
            Event::Message(message) => puller.accept(&message)?,
            Event::Stop { asked: true } => return Ok(Wait::Stop),
            Event::Stop { asked: false } | Event::Failed { .. } => return Ok(Wait::NoData),
            Event::Closed(input) if input == "noised" => {
                return Ok(puller.take().map_or(Wait::NoData, Wait::Batch));
            }
            Event::Closed(_) | Event::Tick => {}
            Event::Timeout => {
                if let Some(batch) = puller.take() {
                    return Ok(Wait::Batch(batch));
                }
                if puller.ended() {
                    return Ok(Wait::NoData);
                }
                puller.ask(node)?;
                puller.ask_again(node)?;
                look = Some(Duration::from_millis(200));
                continue;
            }
        }
        look = Some(Duration::ZERO);
    }
}

/// The model at work and the plug-ins it works with.
type Work<'a> = (&'a mut Training, &'a Plugins);

fn checkpoint(node: &mut Node, dir: &RunDir, work: Work, position: Position, sent: &mut Sent) -> Result<()> {
    save::save(dir, work.0, work.1, position)?;
    announce(node, dir, position.step, sent)
}

fn announce(node: &mut Node, dir: &RunDir, step: u64, sent: &mut Sent) -> Result<()> {
    node.send("checkpoint", sent.checkpoints, &save::describe(dir, step)?)?;
    sent.checkpoints += 1;
    Ok(())
}

fn finish(node: &mut Node, dir: &RunDir, work: Work, position: Position, sent: &mut Sent) -> Result<()> {
    if dir.checkpoint(position.step).exists() { Ok(()) } else { checkpoint(node, dir, work, position, sent) }
}

fn measured(
    config: &Config,
    report: &StepReport,
    position: Position,
    (took, waited): (Duration, Duration),
    (bad, asked_again): (u64, u64),
) -> Metrics {
    let seconds = took.as_secs_f64();
    Metrics::of_step(
        position.step,
        [
            ("loss", report.loss),
            ("loss_unweighted", report.loss_unweighted),
            ("masked_share", report.masked_share),
            ("learning_rate", report.learning_rate),
            ("grad_norm", report.grad_norm),
            ("attn_mask_ratio", report.attn_mask_ratio),
            ("tokens_seen", position.tokens_seen as f64),
            ("tokens_per_s", report.tokens as f64 / seconds),
            ("step_s", seconds),
            ("data_wait_s", waited.as_secs_f64()),
            ("bad_steps", bad as f64),
            ("asked_again", asked_again as f64),
            ("steps_total", config.steps as f64),
        ],
    )
}

/// sha256 of the files that decide what the run starts from.
fn inputs(config: &Config) -> Result<BTreeMap<String, String>> {
    let base = Path::new(&config.base_model);
    let mut inputs = BTreeMap::new();
    for path in [base.join("config.json"), base.join("model.safetensors"), Path::new(&config.tokenizer).to_owned()] {
        if path.is_file() {
            let (sha256, _) = file_sha256(&path).map_err(|e| {
                Problems::from(Problem::new("BASE_MODEL", path.display(), format!("cannot be read: {e}")))
            })?;
            inputs.insert(path.display().to_string(), sha256);
        }
    }
    Ok(inputs)
}
