//! How far an evaluation is: a bar with rate and ETA on a terminal, else a line now and then.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use difflow_eval::Done;
use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(30);

/// The progress of one task at a time.
pub struct Shown {
    bar: ProgressBar,
    task: String,
    start: Instant,
    said: Instant,
}

impl Shown {
    pub fn new() -> Self {
        Self { bar: ProgressBar::hidden(), task: String::new(), start: Instant::now(), said: Instant::now() }
    }

    /// Begins with a task.
    pub fn task(&mut self, name: &str) {
        (self.task, self.start, self.said) = (name.to_owned(), Instant::now(), Instant::now());
        self.bar = ProgressBar::hidden();
    }

    /// Shows how far it is.
    pub fn show(&mut self, done: Done) {
        if stderr().is_terminal() {
            if self.bar.is_hidden() {
                let style = "{msg:24} {bar:30} {pos}/{len} questions  {per_sec}  ETA {eta}";
                let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
                self.bar = ProgressBar::new(done.of as u64).with_style(style).with_position(done.before as u64);
                self.bar.set_message(self.task.clone());
                self.bar.reset_eta();
            }
            self.bar.set_position(done.questions as u64);
        } else if self.said.elapsed() > QUIET {
            self.said = Instant::now();
            let rate = (done.questions - done.before as f64) / self.start.elapsed().as_secs_f64();
            let left = (done.of as f64 - done.questions) / rate;
            let Done { questions, of, .. } = done;
            eprintln!("{}: {questions:.0}/{of} questions, {rate:.1}/s, {left:.0} s left", self.task);
        }
    }

    /// Ends with the task.
    pub fn end(&mut self) {
        self.bar.finish_and_clear();
    }
}
