//! The monitor's event loop.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use difflow_node_kit::{Event, Node, Problems, Received, Upstream};
use difflow_schema::run::{RunDir, write_atomically};
use difflow_schema::{Metrics, Preview, Samples, read_unmaskings};
use eyre::{Context, Result};
use serde_json::Value;

use crate::config::Config;
use crate::figures::Figures;
use crate::files;
use crate::health::Health;
use crate::history::History;
use crate::inputs::Inputs;
use crate::origin::Origin;
use crate::page::Page;
use crate::progress::Progress;
use crate::report::{Run, report};
use crate::screen::screen;
use crate::show::{Known, Show, Stage};
use crate::store::Store;
use crate::tensorboard::Events;

/// Between two writes of the metrics.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Between two updates of the page.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// How long the monitor still listens after another node failed; what is left of the run ends meanwhile.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

struct Monitor {
    run: String,
    origin: Origin,
    dir: RunDir,
    inputs: Inputs,
    history: History,
    health: Health,
    store: Store,
    events: Option<Events>,
    show: Option<Show>,
    /// What the trainer says of its batches.
    trainer: Upstream,
    progress: Progress,
    started: Instant,
    last_news: Instant,
    failed: Option<(String, Instant)>,
    stopped: bool,
}

/// Runs the node until nothing can come any more.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let every = Duration::from_secs(config.progress_seconds);
    let mut monitor = Monitor::open(&config, &node)?;
    let (mut reported, mut saved, mut shown) = (Instant::now(), Instant::now(), Instant::now());
    loop {
        // The timer input is the clock: it also keeps dora's watchdog from ending a graph in which everybody waits.
        match node.next(None)? {
            Event::Message(message) => monitor.take(&message)?,
            Event::Closed(input) => monitor.inputs.close(&input),
            Event::Failed { node } => _ = monitor.failed.get_or_insert((node, Instant::now())),
            Event::Stop { asked } => {
                monitor.stopped = asked;
                break;
            }
            Event::Tick | Event::Timeout => {}
        }
        if monitor.inputs.all_closed() || monitor.failed.as_ref().is_some_and(|(_, at)| at.elapsed() >= AFTER_FAILURE) {
            break;
        }
        if reported.elapsed() >= every {
            reported = Instant::now();
            say(&monitor.line());
        }
        if saved.elapsed() >= SAVE_EVERY {
            saved = Instant::now();
            monitor.save()?;
        }
        if shown.elapsed() >= SHOW_EVERY {
            shown = Instant::now();
            monitor.health.dropped(node.dropped());
            monitor.publish();
        }
    }
    monitor.finish(&mut node)
}

impl Monitor {
    fn open(config: &Config, node: &Node) -> Result<Self> {
        let dataflow = node.dataflow()?;
        let inputs = Inputs::of(&dataflow, &node.id()).map_err(Problems)?;
        let dir = config.run.dir();
        let mut history = History::default();
        let store = Store::open(&dir.metrics(), |row| history.add(&row))?;
        let resumed = history.metric("loss").is_some();
        let events = config.tensorboard.then(|| Events::create(&dir.tensorboard(), resumed)).transpose()?;
        let now = Instant::now();
        Ok(Self {
            run: config.run.name.clone(),
            origin: Origin::of(&dataflow),
            health: Health::of(&dataflow, &node.id(), &inputs),
            inputs,
            history,
            store,
            events,
            show: show(config, &dir),
            trainer: Upstream::default(),
            dir,
            progress: Progress::default(),
            started: now,
            last_news: now,
            failed: None,
            stopped: false,
        })
    }

    fn take(&mut self, message: &Received) -> Result<()> {
        if message.fin {
            return Ok(());
        }
        self.health.received(&message.input);
        let sender = self.inputs.sender(&message.input).to_owned();
        match message.input.as_str() {
            // Nobody but the page looks at it.
            "preview" => {
                let news = self.trainer.hear(message)?;
                if let Some(show) = &mut self.show {
                    if let (true, Some(tokenizer)) = (news, &self.trainer.facts().tokenizer) {
                        show.use_tokenizer(&tokenizer.path);
                    }
                    show.look(message.read::<Preview>()?);
                }
                return Ok(());
            }
            "samples" => {
                let samples = message.read::<Samples>()?.0;
                if let Some(events) = &mut self.events {
                    events.texts(&samples)?;
                }
                self.history.add_samples(samples);
                if let Some(show) = &mut self.show {
                    show.sampled(&self.dir);
                }
            }
            input => {
                let rows = self.history.add_metrics(&sender, message.read::<Metrics>()?);
                self.measured(input, &rows)?;
                self.store.add(rows);
            }
        }
        self.last_news = Instant::now();
        Ok(())
    }

    fn measured(&mut self, input: &str, rows: &[crate::history::Row]) -> Result<()> {
        let training = input == "training";
        if let Some(events) = &mut self.events {
            if let (true, Some(first)) = (training, rows.first()) {
                events.training_begins(first.step)?;
            }
            events.scalars(section(input), rows)?;
        }
        if training {
            self.progress.add(self.started.elapsed().as_secs_f64(), rows);
            return Ok(());
        }
        // Scores are few and take long to make: the report shows them at once.
        self.write_report()
    }

    /// The progress line, or what is being waited for.
    fn line(&mut self) -> String {
        let waiting = crate::format::duration(self.last_news.elapsed().as_secs_f64());
        let training = self.inputs.is_open("training");
        self.progress.line().unwrap_or_else(|| {
            if training {
                format!("waiting for the next step ({waiting})")
            } else {
                format!("waiting for {} ({waiting})", self.inputs.open_senders().join(", "))
            }
        })
    }

    fn save(&mut self) -> Result<()> {
        self.store.save()?;
        if let Some(events) = &mut self.events {
            events.flush()?;
        }
        Ok(())
    }

    /// What the page is told; the page apart, so that both can be used.
    fn known(&mut self, over: bool) -> (&mut Option<Show>, Known<'_>) {
        let stage = match &self.failed {
            Some((node, _)) => Stage::Failed(node),
            None if over => Stage::Over { stopped: self.stopped },
            None => Stage::Going,
        };
        let Self { history, progress, inputs, health, dir, .. } = self;
        (&mut self.show, Known { history, progress, inputs, health, dir, stage })
    }

    fn publish(&mut self) {
        let (show, known) = self.known(false);
        if let Some(show) = show {
            show.publish(known);
        }
    }

    fn write_report(&self) -> Result<()> {
        let record = fs::read(self.dir.record()).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let failed = self.failed.as_ref().map(|(node, _)| node.as_str());
        // A text without its history is shown still; the sampler may be of another version, or may have written none.
        let last = self.history.last_sample_step().map(|step| read_unmaskings(&self.dir.samples(step)));
        let unmaskings = last.and_then(Result::ok).unwrap_or_default();
        let run = Run { name: &self.run, record: record.as_ref(), origin: Some(&self.origin), failed };
        let page = report(&run, &self.history, &unmaskings)?;
        let path = self.dir.report();
        write_atomically(&path, page.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes what there is and shows the final screen.
    fn finish(mut self, node: &mut Node) -> Result<()> {
        if let Some(line) = self.progress.line() {
            say(&line);
        }
        for (input, folder) in [("sampling", self.dir.samples(0)), ("scores", self.dir.scores(0))] {
            let (node, folder) = (self.inputs.sender(input), folder.parent().unwrap_or(&folder));
            let rows = files::complete(&mut self.history, folder, node);
            if let Some(events) = &mut self.events {
                events.scalars(section(input), &rows)?;
            }
            self.store.add(rows);
        }
        self.save()?;
        self.write_report()?;
        self.health.dropped(node.dropped());
        // A preview that nobody saw is no loss.
        for (input, count) in self.health.all_dropped().iter().filter(|(input, _)| *input != "preview") {
            eprintln!(
                "warning: dora dropped {count} messages on `{input}`: curves have gaps; give that input a larger queue_size"
            );
        }
        say(screen(&Figures::of(&self.history), &self.history, &self.dir.report()).trim_end());
        let (show, known) = self.known(true);
        if let Some(show) = show.take() {
            show.end(known);
        }
        Ok(())
    }
}

/// The page, if it is wanted and can be served; says where it is.
fn show(config: &Config, dir: &RunDir) -> Option<Show> {
    let address = config.page_address().filter(|_| config.page)?;
    match Page::open(&config.run.name, dir.clone(), address, &config.page_token) {
        Ok(page) => {
            say(&format!("page: {}", page.url()));
            Some(Show::new(page, dir))
        }
        Err(e) => {
            eprintln!("warning: {e}");
            None
        }
    }
}

/// Where TensorBoard shows what came on an input.
fn section(input: &str) -> &str {
    match input {
        "scores" => "validation",
        "sampling" => "samples",
        other => other,
    }
}

/// Writes a line for people. Nobody reading it is no reason to fail the run.
fn say(text: &str) {
    _ = writeln!(std::io::stdout(), "{text}");
}
