//! What is sent to the page each second.

use std::path::Path;
use std::time::Instant;

use difflow_schema::Preview;
use difflow_schema::run::RunDir;

use crate::curves;
use crate::health::Health;
use crate::history::History;
use crate::inputs::Inputs;
use crate::page::{News, Page, Status, Words, sample_steps, texts_of};
use crate::progress::Progress;

/// How the run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stage<'a> {
    /// It goes on.
    Going,
    /// A node ended with an error.
    Failed(&'a str),
    /// Everything is over: as it should, or because somebody stopped it.
    Over {
        /// Whether somebody did.
        stopped: bool,
    },
}

/// The page and what only it needs.
pub struct Show {
    page: Page,
    words: Words,
    preview: Option<Preview>,
    /// Steps with samples, when they have changed.
    samples: Option<Vec<u64>>,
    started: Instant,
}

/// What the monitor knows.
pub struct Known<'a> {
    pub history: &'a History,
    pub progress: &'a Progress,
    pub inputs: &'a Inputs,
    pub health: &'a mut Health,
    pub dir: &'a RunDir,
    pub stage: Stage<'a>,
}

impl Show {
    /// Around a page that is being served.
    pub fn new(page: Page, dir: &RunDir) -> Self {
        Self { page, words: Words::default(), preview: None, samples: Some(sample_steps(dir)), started: Instant::now() }
    }

    /// Shows token ids as texts of this tokenizer.json from now on.
    pub fn use_tokenizer(&mut self, path: &Path) {
        self.words = Words::open(&path.display().to_string());
    }

    /// Takes what the trainer is looking at; shown with the next news.
    pub fn look(&mut self, preview: Preview) {
        self.preview = Some(preview);
    }

    /// Notes that there are new samples.
    pub fn sampled(&mut self, dir: &RunDir) {
        self.samples = Some(sample_steps(dir));
    }

    /// Shows what is new.
    pub fn publish(&mut self, known: Known) {
        let news = self.news(known);
        self.page.publish(news);
    }

    /// Shows the end.
    pub fn end(mut self, known: Known) {
        // The message of the last ones may be lost.
        self.sampled(known.dir);
        let news = self.news(known);
        self.page.end(news);
    }

    fn news(&mut self, known: Known) -> News {
        let preview = self.preview.take();
        let samples = self.samples.take();
        let last = samples.as_ref().and_then(|steps| steps.last());
        let charts = curves::charts(known.history);
        News {
            // Of a file that cannot be read the page says so when it asks for it.
            texts: last.and_then(|step| texts_of(known.dir, *step).ok()),
            samples,
            series: curves::values(known.history, &charts),
            charts,
            row: preview.as_ref().filter(|preview| !preview.tokens.is_empty()).map(|preview| self.words.row(preview)),
            pattern: preview.filter(|preview| !preview.attention.is_empty()),
            status: status(known, self.started),
        }
    }
}

fn status(known: Known, started: Instant) -> Status {
    let Known { history, progress, inputs, health, dir, stage } = known;
    let (step, total) = progress.steps();
    let failed = if let Stage::Failed(node) = stage { Some(node) } else { None };
    let waiting = inputs.open_senders().join(", ");
    let (state, notice) = match stage {
        Stage::Failed(node) => (
            "failed",
            Some(format!("Node {node} ended with an error; what it said is in the terminal and in its log.")),
        ),
        Stage::Over { stopped: true } => {
            ("stopped", Some("The run was stopped; the same command goes on from its last checkpoint.".into()))
        }
        Stage::Over { stopped: false } => (
            "ended",
            Some(format!("The run is over. This page is not served any more; {} stays.", dir.report().display())),
        ),
        Stage::Going if !inputs.is_open("training") => {
            ("scoring", Some(format!("Training is done. Waiting for {waiting}.")))
        }
        Stage::Going if step.is_none() => ("waiting", None),
        Stage::Going => ("training", None),
    };
    let waits = || Some(progress.recent("data_wait_s")? / progress.recent("step_s").filter(|took| *took > 0.0)?);
    let asked_again = history.metric("asked_again").map(|series| series.last().1 as u64);
    Status {
        state,
        notice,
        step: step.or_else(|| history.metric("loss").map(|series| series.last().0)),
        total,
        eta: progress.eta().filter(|_| state == "training"),
        elapsed: started.elapsed().as_secs_f64(),
        loss: progress.recent("loss"),
        loss_unweighted: progress.recent("loss_unweighted"),
        tokens_per_s: progress.recent("tokens_per_s"),
        tokens_seen: history.after("tokens_seen").map(|(_, tokens)| tokens),
        data_wait_share: waits(),
        report: dir.report().is_file(),
        nodes: health.nodes(failed),
        edges: health.edges(inputs, asked_again),
    }
}
