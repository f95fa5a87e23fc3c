//! The monitor's event loop.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use difflow_node_kit::{Event, Node, Problems, Received};
use difflow_schema::run::{RunDir, write_atomically};
use difflow_schema::{Metrics, Samples, read_unmaskings};
use eyre::{Context, Result};
use serde_json::Value;

use crate::config::Config;
use crate::figures::Figures;
use crate::files;
use crate::history::History;
use crate::inputs::Inputs;
use crate::progress::Progress;
use crate::report::report;
use crate::screen::screen;
use crate::store::Store;

/// Between two writes of the metrics.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How long the monitor still listens after another node failed; what is left of the run ends meanwhile.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

struct Monitor {
    run: String,
    dir: RunDir,
    inputs: Inputs,
    history: History,
    store: Store,
    progress: Progress,
    started: Instant,
    last_news: Instant,
    failed: Option<(String, Instant)>,
}

/// Runs the node until nothing can come any more.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let inputs = Inputs::of(&node.dataflow()?, &node.id()).map_err(Problems)?;
    let dir = RunDir::new(&config.runs, &config.run);
    let (store, earlier) = Store::open(&dir.metrics())?;
    let mut history = History::default();
    earlier.into_iter().for_each(|row| history.add(row));
    let now = Instant::now();
    let progress = Progress::default();
    let mut monitor =
        Monitor { run: config.run, dir, inputs, history, store, progress, started: now, last_news: now, failed: None };
    let every = Duration::from_secs(config.progress_seconds);
    let (mut shown, mut saved) = (now, now);
    loop {
        // The timer input is the clock: it also keeps dora's watchdog from ending a graph in which everybody waits.
        match node.next(None)? {
            Event::Message(message) => monitor.take(&message)?,
            Event::Closed(input) => monitor.inputs.close(&input),
            Event::Failed { node } => _ = monitor.failed.get_or_insert((node, Instant::now())),
            Event::Stop { .. } => break,
            Event::Tick | Event::Timeout => {}
        }
        if monitor.inputs.all_closed() || monitor.failed.as_ref().is_some_and(|(_, at)| at.elapsed() >= AFTER_FAILURE) {
            break;
        }
        if shown.elapsed() >= every {
            shown = Instant::now();
            say(&monitor.line());
        }
        if saved.elapsed() >= SAVE_EVERY {
            saved = Instant::now();
            monitor.store.save()?;
        }
    }
    monitor.finish(&mut node)
}

impl Monitor {
    fn take(&mut self, message: &Received) -> Result<()> {
        if message.fin {
            return Ok(());
        }
        self.last_news = Instant::now();
        let sender = self.inputs.sender(&message.input).to_owned();
        if message.input == "samples" {
            self.history.add_samples(message.read::<Samples>()?.0);
            return Ok(());
        }
        let rows = self.history.add_metrics(&sender, message.read::<Metrics>()?);
        if message.input == "training" {
            self.progress.add(self.started.elapsed().as_secs_f64(), &rows);
        } else {
            // Scores are few and take long to make: the page shows them at once.
            self.write_report()?;
        }
        self.store.add(rows);
        Ok(())
    }

    /// The progress line, or what is being waited for.
    fn line(&mut self) -> String {
        let waiting = crate::format::duration(self.last_news.elapsed().as_secs_f64());
        let training = self.inputs.is_open("training");
        self.progress.line().unwrap_or_else(|| match training {
            true => format!("waiting for the next step ({waiting})"),
            false => format!("waiting for {} ({waiting})", self.inputs.open_senders().join(", ")),
        })
    }

    fn write_report(&self) -> Result<()> {
        let record = fs::read(self.dir.record()).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let failed = self.failed.as_ref().map(|(node, _)| node.as_str());
        // A text without its history is shown still; the sampler may be of another version, or may have written none.
        let last = self.history.last_sample_step().map(|step| read_unmaskings(&self.dir.samples(step)));
        let unmaskings = last.and_then(Result::ok).unwrap_or_default();
        let page = report(&self.run, &self.history, record.as_ref(), &unmaskings, failed)?;
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
            self.store.add(files::complete(&mut self.history, folder, node));
        }
        self.store.save()?;
        self.write_report()?;
        for (input, count) in node.dropped() {
            eprintln!(
                "warning: dora dropped {count} messages on `{input}`: curves have gaps; give that input a larger queue_size"
            );
        }
        say(screen(&Figures::of(&self.history), &self.history, &self.dir.report()).trim_end());
        Ok(())
    }
}

/// Writes a line for people. Nobody reading it is no reason to fail the run.
fn say(text: &str) {
    _ = writeln!(std::io::stdout(), "{text}");
}
