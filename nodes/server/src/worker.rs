//! The thread that has the model: between two forwards texts join its batch and leave it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use difflow_inference::{Batch, Decoding, Expected, Step, Template, Written};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::model::Loaded;
use crate::server::Shared;

/// Positions that are scored between two forwards, at least one text.
const SCORED: usize = 4096;

/// What waits for the model.
pub enum Work {
    Write(Job),
    Score(Scoring),
}

/// A text to be written.
pub struct Job {
    pub text: Template,
    pub decoding: Decoding,
    /// Its number in the request.
    pub number: usize,
    /// Whether the request looks at the text while it is written.
    pub watched: bool,
    pub news: UnboundedSender<(usize, News)>,
    /// Set when nobody wants it any more.
    pub dropped: Arc<AtomicBool>,
}

/// What happened to a text.
#[derive(Debug)]
pub enum News {
    Step(Step),
    Done(Written),
    Failed(ApiError),
}

/// Texts whose tokens' log-probabilities are wanted.
pub struct Scoring {
    pub texts: Vec<Vec<u32>>,
    pub best: usize,
    pub answer: oneshot::Sender<Result<Vec<Vec<Expected>>, ApiError>>,
}

impl Work {
    /// Whether somebody waits for it.
    pub fn wanted(&self) -> bool {
        match self {
            Self::Write(job) => job.wanted(),
            Self::Score(scoring) => !scoring.answer.is_closed(),
        }
    }
}

impl Job {
    fn wanted(&self) -> bool {
        !self.dropped.load(Ordering::Relaxed) && !self.news.is_closed()
    }

    fn tell(&self, news: News) {
        // Who has gone wants no news.
        _ = self.news.send((self.number, news));
    }
}

/// Why a model is put away.
enum Turn {
    Switch,
    Over,
}

/// Works until the end has come and everything that waited is done.
pub fn run(shared: &Shared) {
    loop {
        let over = shared.queue.wait(|| shared.has_model());
        let Some(model) = shared.model() else {
            if over {
                return;
            }
            continue;
        };
        // What waits for an answer hears of it: its sender is gone.
        match catch_unwind(AssertUnwindSafe(|| serve(shared, &model))) {
            Ok(Turn::Over) => return,
            Ok(Turn::Switch) => shared.switch(),
            Err(_) => eprintln!("error: the batch at hand is lost; the server goes on"),
        }
    }
}

/// Texts whose scores are on their way.
struct Going {
    scoring: Scoring,
    done: Vec<Vec<Expected>>,
}

fn serve(shared: &Shared, model: &Loaded) -> Turn {
    let mut batch = Batch::new(&model.session);
    let mut jobs: BTreeMap<u64, Job> = BTreeMap::new();
    let mut scores: VecDeque<Going> = VecDeque::new();
    loop {
        jobs.retain(|text, job| {
            let wanted = job.wanted();
            if !wanted {
                batch.cancel(*text);
                shared.metrics.cancelled();
            }
            wanted
        });
        scores.retain(|one| !one.scoring.answer.is_closed());
        let switching = shared.has_next();
        if jobs.is_empty() && scores.is_empty() {
            if switching {
                return Turn::Switch;
            }
            // The room that texts took is given back, unless later ones may begin like them.
            if !model.session.reads_ahead() || batch.bytes() > shared.settings.limits.kept {
                batch = Batch::new(&model.session);
            }
        }
        while !switching && jobs.len() + scores.len() < shared.settings.limits.rows {
            match shared.queue.pop() {
                None => break,
                Some(work) if !work.wanted() => {}
                Some(Work::Score(scoring)) => scores.push_back(Going { scoring, done: Vec::new() }),
                Some(Work::Write(job)) => {
                    let known = batch.known();
                    match batch.join(&job.text, &job.decoding) {
                        Ok(text) => drop(jobs.insert(text, job)),
                        Err(e) => job.tell(News::Failed(model.error(&e))),
                    }
                    shared.metrics.known(batch.known() - known);
                }
            }
        }
        shared.metrics.writing(jobs.len());
        if jobs.is_empty() && scores.is_empty() {
            if shared.queue.wait(|| shared.has_next()) {
                return Turn::Over;
            }
            continue;
        }
        score(model, &mut scores);
        match batch.step() {
            Ok(steps) => {
                shared.metrics.forward(steps.len());
                for step in steps {
                    if let Some(job) = jobs.get(&step.text).filter(|job| job.watched) {
                        job.tell(News::Step(step));
                    }
                }
            }
            Err(e) => {
                let error = model.error(&e);
                std::mem::take(&mut jobs).into_values().for_each(|job| job.tell(News::Failed(error.clone())));
                batch = Batch::new(&model.session);
            }
        }
        for (text, written) in batch.take_finished() {
            if let Some(job) = jobs.remove(&text) {
                job.tell(News::Done(written));
            }
        }
    }
}

/// Scores some texts of who has waited longest.
fn score(model: &Loaded, scores: &mut VecDeque<Going>) {
    let Some(mut going) = scores.pop_front() else { return };
    let Going { scoring, done } = &mut going;
    let mut positions = 0;
    let fits = |text: &&Vec<u32>| {
        positions += text.len();
        positions <= SCORED
    };
    let rest = &scoring.texts[done.len()..];
    let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
    match model.session.expected(&rest[..count], scoring.best) {
        Ok(mut found) => done.append(&mut found),
        Err(e) => return drop(going.scoring.answer.send(Err(model.error(&e)))),
    }
    if done.len() == scoring.texts.len() {
        drop(going.scoring.answer.send(Ok(going.done)));
    } else {
        scores.push_back(going);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    /// Work with a key.
    pub fn work(key: u64) -> (Work, UnboundedReceiver<(usize, News)>) {
        let (news, receiver) = unbounded_channel();
        let text = Template { pieces: Vec::new(), key };
        let (decoding, dropped) = (Decoding::default(), Arc::default());
        (Work::Write(Job { text, decoding, number: 0, watched: false, news, dropped }), receiver)
    }

    impl Work {
        pub fn key(&self) -> u64 {
            match self {
                Self::Write(job) => job.text.key,
                Self::Score(_) => u64::MAX,
            }
        }
    }
}
