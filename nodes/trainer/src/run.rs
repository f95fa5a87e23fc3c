//! The trainer's loop: ask, wait, step, measure, now and then a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use difflow_node_kit::{Event, Node, Problem, Problems, Puller};
use difflow_schema::run::{Manifest, RunDir, file_sha256};
use difflow_schema::{Checkpoint, Metrics, Noised};
use eyre::{Result, bail};

use crate::config::Config;
use crate::lineage::{Lineage, Trained};
use crate::measured::measured;
use crate::plugins;
use crate::preview::Previews;
use crate::record;
use crate::save::{self, Position};
use crate::saver::Saver;
use crate::training::{self, Training};

/// How the wait for a batch ended.
enum Wait {
    Batch(Noised),
    /// Stop now, with what is done.
    Stop,
    /// The data ended, or its sender did.
    NoData,
}

/// Training under way.
struct Trainer {
    config: Config,
    node: Node,
    dir: RunDir,
    training: Training,
    position: Position,
    trained: Trained,
    saver: Saver,
    previews: Previews,
    /// Messages sent so far on the pushed outputs.
    checkpoints_sent: u64,
    metrics_sent: u64,
}

/// Trains from the last good checkpoint of the run, or from the base model, to STEPS.
pub fn run(config: Config, node: Node) -> Result<()> {
    difflow_model::set_num_threads(config.threads);
    let dir = config.run_dir();
    let plugins = plugins::of_dataflow(&node.dataflow()?, &config, &node.id());
    let (_lock, record) = record::claim(&dir, &node, inputs(&config)?, &plugins)?;
    save::tidy(&dir)?;
    let (training, position, trained, last) = match save::last_good(&dir)? {
        Some(good) => {
            let path = dir.checkpoint(good.position.step);
            let trained = Trained::since(Lineage::read(&path)?, good.position.next_seq);
            (training::resume(&config, &path)?, good.position, trained, Some(good.sha256))
        }
        None => (training::begin(&config)?, Position::default(), Trained::nothing(), None),
    };
    record::started(&dir, position, last.clone())?;
    let saver = Saver::new(dir.clone(), record, plugins, last);
    let previews = Previews::new(&node)?;
    let (checkpoints_sent, metrics_sent) = (0, 0);
    let mut trainer =
        Trainer { config, node, dir, training, position, trained, saver, previews, checkpoints_sent, metrics_sent };
    let ended = trainer.train();
    // Whatever went wrong: a checkpoint that is almost there is not given up.
    let written = trainer.saver.wait();
    ended.and(written.map(drop))
}

impl Trainer {
    fn train(&mut self) -> Result<()> {
        // The model before training, for the scores to begin with. The run does not depend on it.
        if self.position.step > 0 && self.dir.checkpoint(0).exists() {
            match Manifest::verify(&self.dir.checkpoint(0)) {
                Ok(_) => self.announce(&save::describe(&self.dir, 0)?)?,
                Err(error) => eprintln!("warning: checkpoint of step 0 is passed over: {error}"),
            }
        }
        match self.dir.checkpoint(self.position.step).exists() {
            true => self.announce(&save::describe(&self.dir, self.position.step)?)?,
            false => self.checkpoint()?,
        }
        let patience = Duration::from_secs_f64(self.config.patience_seconds);
        let mut puller = Puller::<Noised>::new("noised", self.position.next_seq, self.config.prefetch, patience);
        let mut bad_steps = 0;
        while self.position.step < self.config.steps {
            let started = Instant::now();
            std::thread::sleep(Duration::from_secs_f64(self.config.slow_down_seconds));
            // Counted when the step is done: what a stop leaves of it is in no checkpoint.
            let (mut trained, mut waited) = (self.trained.clone(), Duration::ZERO);
            for micro in 0..self.config.accumulation {
                let from = Instant::now();
                let batch = match self.wait(&mut puller)? {
                    Wait::Batch(batch) => batch,
                    Wait::Stop => return self.finish(),
                    Wait::NoData => {
                        self.finish()?;
                        eprintln!("warning: the data ended at step {} of {}", self.position.step, self.config.steps);
                        return Ok(());
                    }
                };
                waited += from.elapsed();
                puller.ask(&mut self.node)?;
                if micro == 0 {
                    self.previews.offer(&mut self.node, (&self.training, &self.config), self.position.step, &batch)?;
                }
                trained.count(puller.next_seq() - 1, &batch)?;
                self.training.micro_step(&self.config, self.position.step, batch)?;
            }
            let report = self.training.finish(self.position.step)?;
            self.trained = trained;
            self.position.step += 1;
            self.position.tokens_seen += report.tokens;
            self.position.next_seq = puller.next_seq();
            bad_steps = if report.finite { 0 } else { bad_steps + 1 };
            let (times, counts) = ((started.elapsed(), waited), (bad_steps, puller.repeats));
            self.measure(measured(&self.config, &report, self.position, times, counts))?;
            if bad_steps >= self.config.max_bad_steps {
                let last = self.dir.checkpoint_steps()?.last().map(|&step| self.dir.checkpoint(step));
                bail!(
                    "loss or gradient was not a number in {bad_steps} steps in a row; the last good checkpoint is {}; lower \
                     LEARNING_RATE or CLIP",
                    last.unwrap_or_default().display()
                );
            }
            self.announce_finished()?;
            if self.position.step.is_multiple_of(self.config.checkpoint_every) {
                self.checkpoint()?;
            }
        }
        self.finish()
    }

    /// The next batch, asking for it as long as needed.
    fn wait(&mut self, puller: &mut Puller<Noised>) -> Result<Wait> {
        let mut look = Some(Duration::ZERO);
        loop {
            // Everything that has come in is looked at first, so that a stop is heard between any two batches.
            match self.node.next(look)? {
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
                    puller.ask(&mut self.node)?;
                    puller.ask_again(&mut self.node)?;
                    self.announce_finished()?;
                    look = Some(Duration::from_millis(200));
                    continue;
                }
            }
            look = Some(Duration::ZERO);
        }
    }

    /// Begins a checkpoint. What is measured is how long training stands still for it.
    fn checkpoint(&mut self) -> Result<()> {
        let started = Instant::now();
        let before = self.saver.begin(&mut self.training, self.position, &mut self.trained)?;
        let stall = started.elapsed().as_secs_f64();
        before.map_or(Ok(()), |checkpoint| self.announce(&checkpoint))?;
        match self.position.step {
            0 => Ok(()),
            step => self.measure(Metrics::of_step(step, [("checkpoint_stall_s", stall)])),
        }
    }

    /// Leaves a checkpoint of the last finished step.
    fn finish(&mut self) -> Result<()> {
        self.wait_for_checkpoint()?;
        if !self.dir.checkpoint(self.position.step).exists() {
            self.checkpoint()?;
        }
        self.wait_for_checkpoint()
    }

    fn wait_for_checkpoint(&mut self) -> Result<()> {
        self.saver.wait()?.map_or(Ok(()), |checkpoint| self.announce(&checkpoint))
    }

    fn announce_finished(&mut self) -> Result<()> {
        self.saver.finished()?.map_or(Ok(()), |checkpoint| self.announce(&checkpoint))
    }

    fn announce(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.node.send("checkpoint", self.checkpoints_sent, checkpoint)?;
        self.checkpoints_sent += 1;
        Ok(())
    }

    fn measure(&mut self, metrics: Metrics) -> Result<()> {
        self.node.send("metrics", self.metrics_sent, &metrics)?;
        self.metrics_sent += 1;
        Ok(())
    }
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
