//! What the server counts, as Prometheus reads it (text format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histograms, in seconds.
const SECONDS: [f64; 11] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0];

#[derive(Debug, Default)]
pub struct Metrics {
    /// Answers by route and status.
    answers: Mutex<BTreeMap<(String, u16), u64>>,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    known_tokens: AtomicU64,
    forwards: AtomicU64,
    rows: AtomicU64,
    writing: AtomicU64,
    cancelled: AtomicU64,
    switched: AtomicU64,
    answer: Histogram,
    first: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    /// Not cumulative; the last is for what lies beyond.
    counts: [AtomicU64; SECONDS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    fn add(&self, time: Duration) {
        let place = SECONDS.iter().position(|&bound| time.as_secs_f64() <= bound).unwrap_or(SECONDS.len());
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, text: &mut String, name: &str, help: &str) {
        _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut sum = 0;
        for (at, count) in self.counts.iter().enumerate() {
            sum += count.load(Ordering::Relaxed);
            let bound = SECONDS.get(at).map_or("+Inf".to_owned(), f64::to_string);
            _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let seconds = self.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        _ = writeln!(text, "{name}_sum {seconds}\n{name}_count {sum}");
    }
}

impl Metrics {
    pub fn answered(&self, route: &str, status: u16) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry((route.to_owned(), status)).or_default() += 1;
    }

    pub fn tokens(&self, prompt: usize, completion: usize) {
        self.prompt_tokens.fetch_add(prompt as u64, Ordering::Relaxed);
        self.completion_tokens.fetch_add(completion as u64, Ordering::Relaxed);
    }

    /// Tokens of what is given that were not read again.
    pub fn known(&self, tokens: u64) {
        self.known_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    pub fn forward(&self, rows: usize) {
        self.forwards.fetch_add(u64::from(rows > 0), Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub fn writing(&self, texts: usize) {
        self.writing.store(texts as u64, Ordering::Relaxed);
    }

    pub fn cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    pub fn switched(&self) {
        self.switched.fetch_add(1, Ordering::Relaxed);
    }

    /// How long the first piece of text, and all of an answer, took.
    pub fn first(&self, time: Duration) {
        self.first.add(time);
    }

    pub fn whole(&self, time: Duration) {
        self.answer.add(time);
    }

    /// All of them; `waiting` texts wait.
    pub fn text(&self, waiting: usize) -> String {
        let mut text = String::from(
            "# HELP difflow_requests_total Answers by route and status.\n# TYPE difflow_requests_total counter\n",
        );
        for ((route, status), count) in self.answers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            _ = writeln!(text, "difflow_requests_total{{route=\"{route}\",code=\"{status}\"}} {count}");
        }
        text += "# HELP difflow_tokens_total Tokens given and written.\n# TYPE difflow_tokens_total counter\n";
        let number = |one: &AtomicU64| one.load(Ordering::Relaxed);
        for (kind, count) in [("prompt", &self.prompt_tokens), ("completion", &self.completion_tokens)] {
            _ = writeln!(text, "difflow_tokens_total{{kind=\"{kind}\"}} {}", number(count));
        }
        for (name, kind, help, value) in [
            (
                "known_tokens_total",
                "counter",
                "Tokens given that a text before had begun with, and that were not read again.",
                number(&self.known_tokens),
            ),
            ("forwards_total", "counter", "Forwards of the model.", number(&self.forwards)),
            ("forward_rows_total", "counter", "Texts of all forwards.", number(&self.rows)),
            ("cancelled_total", "counter", "Texts that nobody wanted any more.", number(&self.cancelled)),
            ("models_total", "counter", "Models that were served.", number(&self.switched)),
            ("writing", "gauge", "Texts that are being written.", number(&self.writing)),
            ("queue_depth", "gauge", "Texts that wait.", waiting as u64),
        ] {
            _ = writeln!(text, "# HELP difflow_{name} {help}\n# TYPE difflow_{name} {kind}\ndifflow_{name} {value}");
        }
        self.first.write(&mut text, "difflow_first_text_seconds", "Time to the first piece of text.");
        self.answer.write(&mut text, "difflow_request_seconds", "Time to the whole answer.");
        text
    }
}
