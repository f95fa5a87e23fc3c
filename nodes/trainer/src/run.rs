//! The trainer's loop: request, wait, step, send metrics, and from time to time write a checkpoint.

use std::time::{Duration, Instant};

use difflow_model::{Device, GraphUse};
use difflow_node_kit::{Event, Node, Puller, Upstream};
use difflow_schema::run::{Manifest, RunDir};
use difflow_schema::{Checkpoint, Facts, Metrics, Noised};
use eyre::{Context, Result, bail};

use crate::config::Config;
use crate::lineage::{Lineage, Trained};
use crate::measured::{exchanged, measured};
use crate::origin;
use crate::preview::Previews;
use crate::ranks::{self, Agreed, End, Ranks};
use crate::record::{self, Made};
use crate::save::{self, Position};
use crate::saver::Saver;
use crate::training::{self, Finished, Training};

/// How the wait for a batch ended.
enum Wait {
    Batch(Noised),
    /// There will be none.
    Ended(End),
}

impl Wait {
    /// No batch comes any more.
    fn without(puller: &Puller<Noised>) -> Self {
        Self::Ended(if puller.ended() { End::NoData } else { End::Gone })
    }
}

/// A finished step whose numbers have not been sent.
struct Unread {
    finished: Finished,
    position: Position,
    took: Duration,
    waited: Duration,
    /// Batches asked for again since the start.
    asked_again: u64,
}

/// Training under way.
struct Trainer {
    config: Config,
    node: Node,
    ranks: Ranks,
    dir: RunDir,
    training: Training,
    position: Position,
    trained: Trained,
    saver: Saver,
    previews: Previews,
    upstream: Upstream,
    /// The last step, while a device may still be working on it.
    unread: Option<Unread>,
    /// The step of the last checkpoint that was there, or has been begun: all ranks know it.
    saved: Option<u64>,
    /// Steps in a row whose loss or gradient was not a number.
    bad_steps: u64,
    /// Whether a step was taken since this process began.
    stepped: bool,
    /// Messages sent so far on the pushed outputs.
    checkpoints_sent: u64,
    metrics_sent: u64,
}

/// Trains from the last good checkpoint of the run, or from the base model, to STEPS.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    difflow_model::set_num_threads(config.threads);
    let dir = config.run.dir();
    let place = ranks::place(&node)?;
    let leads = place.rank == 0;
    let _lock = leads.then(|| record::claim(&dir)).transpose()?;
    let made = Made::of(&config, &node.name(), &dir)?;
    let good = if leads {
        save::tidy(&dir)?;
        save::last_good(&dir)?
    } else {
        None
    };
    let Some(ranks) = Ranks::join(&config, &mut node, &dir, place)? else { return Ok(()) };
    let good = ranks.begin(&config, &made, &dir, good)?;
    let saved = good.as_ref().map(|good| good.position.step);
    let position = good.as_ref().map(|good| good.position).unwrap_or_default();
    // t is stratified over the batches of a step: the noiser hears how many those are.
    node.say("demand", &Facts { accumulation: Some(config.accumulation), ..Facts::default() })?;
    let patience = Duration::from_secs_f64(config.patience_seconds);
    let mut puller =
        Puller::<Noised>::new("noised", position.next_seq, config.prefetch, patience).of_share(ranks.share());
    let trains = position.step < config.steps;
    if trains {
        // The first batches are made while the model is read.
        puller.ask(&mut node)?;
    }
    let (training, trained, last) = match good {
        Some(good) => {
            let path = dir.checkpoint(position.step);
            let trained = Trained::since(Lineage::read(&path)?, position.next_seq);
            (training::resume(&config, &path, Some(&ranks))?, trained, Some(good.sha256))
        }
        None => (training::begin(&config, Some(&ranks))?, Trained::nothing(), None),
    };
    let previews = Previews::new(&node)?;
    let saver = Saver::new(dir.clone(), made.plugins.clone(), None, last);
    let upstream = Upstream::default();
    let (checkpoints_sent, metrics_sent) = (0, 0);
    let mut trainer = Trainer {
        config,
        node,
        ranks,
        dir,
        training,
        position,
        trained,
        saver,
        previews,
        upstream,
        unread: None,
        saved,
        bad_steps: 0,
        stepped: false,
        checkpoints_sent,
        metrics_sent,
    };
    if trains && !trainer.first(&mut puller)? {
        return Ok(());
    }
    trainer.enter(&made, trains)?;
    let ended = trainer.train(puller);
    // Whatever went wrong: a checkpoint that is almost there is not given up.
    let written = trainer.saver.wait();
    ended.and(written.map(drop))
}

impl Trainer {
    /// Waits for word of what the batches are made from: it comes before the first of them, or with it. Returns false when the run
    /// ends before.
    fn first(&mut self, puller: &mut Puller<Noised>) -> Result<bool> {
        let look = Some(Duration::from_millis(200));
        loop {
            match self.node.next(look)? {
                Event::Message(message) => {
                    self.upstream.hear(&message)?;
                    puller.accept(&message)?;
                    return Ok(true);
                }
                // Who refused its configuration says so; nothing has been trained.
                Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(false),
                Event::Timeout => puller.ask_again(&mut self.node)?,
                Event::Tick => {}
            }
        }
    }

    /// Compares the run with what it began with, and tells those who come after.
    fn enter(&mut self, made: &Made, trains: bool) -> Result<()> {
        let facts = self.upstream.facts().clone();
        if self.ranks.leads() {
            record::enter(&self.dir, made, trains.then_some(&facts))?;
            record::started(&self.dir, self.position, self.saver.last())?;
        }
        if !trains {
            return Ok(());
        }
        let mut plugins = made.plugins.clone();
        plugins.extend(facts.plugins.clone());
        self.saver.plugins = plugins;
        if let Some(tokenizer) = &facts.tokenizer {
            let json = std::fs::read(&tokenizer.path).with_context(|| tokenizer.path.display().to_string())?;
            self.training.learner.use_tokenizer(json)?;
            // Whoever talks with the model must ask it as it was taught.
            if let Some(file) = tokenizer.examples.as_ref().and_then(|examples| examples.template_file.as_ref()) {
                let text = std::fs::read(file).with_context(|| file.display().to_string())?;
                self.training.learner.use_chat_template(text);
            }
        }
        self.hear(&facts)
    }

    /// Takes in what is said of the data.
    fn hear(&mut self, facts: &Facts) -> Result<()> {
        self.training.hear(&self.config, facts)?;
        self.saver.origin = origin::of(&self.config, facts)?;
        self.node.say("preview", facts)
    }

    fn train(&mut self, mut puller: Puller<Noised>) -> Result<()> {
        // The model before training, for the scores to begin with. The run does not depend on it.
        if self.ranks.leads() && self.position.step > 0 && self.dir.checkpoint(0).exists() {
            match Manifest::verify(&self.dir.checkpoint(0)) {
                Ok(_) => self.announce(&save::describe(&self.dir, 0)?)?,
                Err(error) => eprintln!("warning: checkpoint of step 0 is passed over: {error}"),
            }
        }
        if self.saved != Some(self.position.step) {
            self.checkpoint()?;
        } else if self.ranks.leads() {
            self.announce(&save::describe(&self.dir, self.position.step)?)?;
        }
        while self.position.step < self.config.steps {
            let started = Instant::now();
            std::thread::sleep(Duration::from_secs_f64(self.config.slow_down_seconds));
            // Counted when the step is done: what a stop leaves of it is in no checkpoint.
            let (mut trained, mut waited) = (self.trained.clone(), Duration::ZERO);
            let ended = match self.ranks.group() {
                None => self.one_by_one(&mut puller, &mut trained, &mut waited)?,
                Some(_) => self.together(&mut puller, &mut trained, &mut waited)?,
            };
            if let Some(end) = ended {
                self.finish()?;
                // Of a node that failed, that node says why.
                if end == End::NoData && self.ranks.leads() {
                    eprintln!("warning: the data ended at step {} of {}", self.position.step, self.config.steps);
                }
                return Ok(());
            }
            let finished = self.training.finish(self.position.step)?;
            self.trained = trained;
            self.position.step += 1;
            self.position.tokens_seen += finished.tokens();
            self.position.next_seq += self.config.accumulation;
            // The step before: a device has done that one by now, and works on this one while its numbers are sent.
            let before = self.unread.take();
            before.map_or(Ok(()), |before| self.report(before))?;
            let (position, took) = (self.position, started.elapsed());
            self.unread = Some(Unread { finished, position, took, waited, asked_again: puller.repeats });
            let due = self.position.step.is_multiple_of(self.config.checkpoint_every);
            if due || self.training.learner.model().device() == Device::Cpu {
                self.report_all()?;
            }
            self.announce_finished()?;
            if due {
                self.checkpoint()?;
            }
        }
        self.finish()
    }

    /// The micro-steps of a step: batches are trained on as they come. Returns why no step is taken, if none is.
    fn one_by_one(
        &mut self,
        puller: &mut Puller<Noised>,
        trained: &mut Trained,
        waited: &mut Duration,
    ) -> Result<Option<End>> {
        for micro in 0..self.config.accumulation {
            let from = Instant::now();
            let batch = match self.wait(puller)? {
                Wait::Batch(batch) => batch,
                Wait::Ended(end) => return Ok(Some(end)),
            };
            *waited += from.elapsed();
            puller.ask(&mut self.node)?;
            if micro == 0 {
                self.previews.offer(&mut self.node, (&self.training, &self.config), self.position.step, &batch)?;
            }
            trained.count(puller.next_seq() - 1, &batch)?;
            self.training.micro_step(&self.config, self.position.step, batch)?;
        }
        Ok(None)
    }

    /// The same with other ranks, who are told first that all batches of this one are here: all take the step, or none.
    fn together(
        &mut self,
        puller: &mut Puller<Noised>,
        trained: &mut Trained,
        waited: &mut Duration,
    ) -> Result<Option<End>> {
        let from = Instant::now();
        let (mut batches, mut end) = (Vec::new(), None);
        while end.is_none() && (batches.len() as u64) < self.ranks.micro_batches() {
            match self.wait(puller)? {
                Wait::Batch(batch) => {
                    batches.push(batch);
                    puller.ask(&mut self.node)?;
                }
                Wait::Ended(own) => end = Some(own),
            }
        }
        *waited += from.elapsed();
        let Agreed { end, traffic } = self.ranks.agree(end)?;
        if let Some(traffic) = traffic.filter(|_| self.stepped) {
            self.measure(exchanged(self.position.step, traffic))?;
        }
        if end.is_some() {
            return Ok(end);
        }
        self.stepped = true;
        self.ranks.count(trained, self.position.next_seq, &batches)?;
        if let Some(batch) = batches.first() {
            self.previews.offer(&mut self.node, (&self.training, &self.config), self.position.step, batch)?;
        }
        for batch in batches {
            self.training.micro_step(&self.config, self.position.step, batch)?;
        }
        Ok(None)
    }

    /// Sends what has not been read yet.
    fn report_all(&mut self) -> Result<()> {
        self.unread.take().map_or(Ok(()), |unread| self.report(unread))
    }

    /// Reads and sends what a step measured. Errors if it is one bad step too many.
    fn report(&mut self, unread: Unread) -> Result<()> {
        let Unread { finished, position, took, waited, asked_again } = unread;
        let report = self.training.report(finished)?;
        self.bad_steps = if report.finite { 0 } else { self.bad_steps + 1 };
        let (times, counts) = ((took, waited), (self.bad_steps, asked_again));
        self.measure(measured(&self.config, &report, position, times, counts))?;
        if self.bad_steps >= self.config.max_bad_steps {
            let last = self.dir.checkpoint_steps()?.last().map(|&step| self.dir.checkpoint(step));
            bail!(
                "loss or gradient was not a number in {} steps in a row; the last good checkpoint is {}; lower LEARNING_RATE or CLIP",
                self.bad_steps,
                last.unwrap_or_default().display()
            );
        }
        Ok(())
    }

    /// The next batch, asking for it as long as needed.
    fn wait(&mut self, puller: &mut Puller<Noised>) -> Result<Wait> {
        let mut look = Some(Duration::ZERO);
        loop {
            // Everything that has come in is looked at first, so that a stop is heard between any two batches.
            match self.node.next(look)? {
                Event::Message(message) => {
                    if self.upstream.hear(&message)? {
                        let facts = self.upstream.facts().clone();
                        self.hear(&facts)?;
                    }
                    puller.accept(&message)?;
                }
                Event::Stop { asked: true } => return Ok(Wait::Ended(End::Stop)),
                Event::Stop { asked: false } | Event::Failed { .. } => return Ok(Wait::without(puller)),
                Event::Closed(input) if input == "noised" => {
                    return Ok(puller.take().map_or_else(|| Wait::without(puller), Wait::Batch));
                }
                Event::Closed(_) | Event::Tick => {}
                Event::Timeout => {
                    if let Some(batch) = puller.take() {
                        return Ok(Wait::Batch(batch));
                    }
                    if puller.ended() {
                        return Ok(Wait::Ended(End::NoData));
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
        self.saved = Some(self.position.step);
        let started = Instant::now();
        if !self.ranks.leads() {
            self.training.learner.help_save(&save::partial(&self.dir, self.position.step))?;
            return Ok(());
        }
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
        self.report_all()?;
        if let Some(GraphUse { recorded, replayed, stopped }) = self.training.learner.graph_use() {
            println!("{replayed} updates by {recorded} CUDA graphs");
            if let Some(reason) = stopped {
                println!("no more CUDA graphs: {reason}");
            }
        }
        self.wait_for_checkpoint()?;
        if self.saved != Some(self.position.step) {
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
        if !self.ranks.leads() {
            return Ok(());
        }
        self.node.send("checkpoint", self.checkpoints_sent, checkpoint)?;
        self.checkpoints_sent += 1;
        Ok(())
    }

    fn measure(&mut self, metrics: Metrics) -> Result<()> {
        if !self.ranks.leads() {
            return Ok(());
        }
        self.node.send("metrics", self.metrics_sent, &metrics)?;
        self.metrics_sent += 1;
        Ok(())
    }
}
