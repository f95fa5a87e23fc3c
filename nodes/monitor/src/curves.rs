//! The curves of a run, listed once: the live page and report.html draw these.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::history::History;
use crate::series::{Point, Series};

use Color::{Blue, Green, Orange};
use Style::{Marks, Noisy, Smooth};

/// Share of a step in which a rank exchanged with the others, or waited for them to: of those that did it least and most.
const EXCHANGE_LEAST: &str = "exchange_share_least";
const EXCHANGE_MOST: &str = "exchange_share_most";
/// Share of the trainer's time in which it waited for data.
const DATA_WAIT: &str = "data_wait_share";
/// Loss of the base model: it does not move, so it is a level line over the steps that were scored.
const BASE_LOSS: &str = "base_loss";

/// How the page writes a value.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    Number,
    Exponent,
    Percent,
    Si,
}

/// A colour that both have, in light and in dark.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Color {
    Blue,
    Orange,
    Green,
}

/// What a line is like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// It jumps from step to step: the page draws its moving mean on top.
    Noisy,
    Smooth,
    /// A few values, such as one per checkpoint: each has a mark.
    Marks,
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    /// Its series in [`values`].
    pub key: String,
    pub name: String,
    pub color: Color,
    pub style: Style,
}

/// One chart.
#[derive(Debug, Clone, Serialize)]
pub struct Chart {
    pub title: String,
    pub note: &'static str,
    pub format: Format,
    /// Whether the axis begins at 0.
    pub zero: bool,
    /// Whether the page offers a logarithmic axis.
    pub log: bool,
    /// What the page says before there is a value.
    pub empty: &'static str,
    pub lines: Vec<Curve>,
}

impl Chart {
    /// Of every step, with an axis that begins at 0.
    fn of_steps<const N: usize>(title: &str, note: &'static str, format: Format, lines: [Curve; N]) -> Self {
        let (title, lines) = (title.to_owned(), lines.into());
        Self { title, note, format, zero: true, log: false, empty: "The first step is on its way.", lines }
    }

    /// Of every checkpoint, with an axis that begins at 0.
    fn of_checkpoints<const N: usize>(title: &str, note: &'static str, format: Format, lines: [Curve; N]) -> Self {
        let empty = "Scores come with the first checkpoint that is finished.";
        let (title, lines) = (title.to_owned(), lines.into());
        Self { title, note, format, zero: true, log: false, empty, lines }
    }

    fn tight(mut self) -> Self {
        self.zero = false;
        self
    }

    fn log(mut self) -> Self {
        self.log = true;
        self
    }

    /// Of a task that checkpoints are evaluated by: the first of [`LEADING`] that it has, and what the base model made of it.
    fn of_task(name: &str, history: &History) -> Option<Self> {
        let (figure, format) = LEADING.iter().find(|(figure, _)| history.metric(&task(name, figure)).is_some())?;
        let mut lines = vec![line(&task(name, figure), &figure.replace('_', " "), Blue, Marks)];
        if history.before(&base(name, figure)).is_some() {
            lines.push(line(&base(name, figure), "base model (AR)", Green, Smooth));
        }
        let note = "a task of TASKS; the other figures are in `difflow sql` and TensorBoard";
        Some(Self { lines, ..Self::of_checkpoints(&format!("Task {name}"), note, *format, []) })
    }
}

fn line(key: &str, name: &str, color: Color, style: Style) -> Curve {
    Curve { key: key.to_owned(), name: name.to_owned(), color, style }
}

/// Figures of a task as the evaluator names them: of those that it has, the first is drawn.
const LEADING: &[(&str, Format)] = &[
    ("acc", Format::Percent),
    ("exact_match_oracle", Format::Percent),
    ("exact_match_unknown", Format::Percent),
    ("contains_oracle", Format::Percent),
    ("contains_unknown", Format::Percent),
    ("final_answer_oracle", Format::Percent),
    ("final_answer_unknown", Format::Percent),
    ("pass_at_1_oracle", Format::Percent),
    ("pass_at_1_unknown", Format::Percent),
    ("rouge1_oracle", Format::Percent),
    ("rouge1_unknown", Format::Percent),
    ("acc_norm", Format::Percent),
    ("bits_per_byte", Format::Number),
];

fn task(name: &str, figure: &str) -> String {
    format!("{TASK}{name}/{figure}")
}

fn base(name: &str, figure: &str) -> String {
    format!("base/{name}/{figure}")
}

/// What the names of a task's figures begin with.
const TASK: &str = "task/";

/// Returns the charts of every run, in the order in which they are shown. Those of tasks come after them.
pub fn common() -> Vec<Chart> {
    vec![
        Chart::of_steps(
            "Training loss",
            "nats per token; weighted is the NELBO's integrand",
            Format::Number,
            [line("loss", "weighted", Blue, Noisy), line("loss_unweighted", "unweighted", Orange, Noisy)],
        )
        .tight()
        .log(),
        Chart::of_checkpoints(
            "Validation NELBO",
            "nats per token on held-out text; the base model's loss is exact",
            Format::Number,
            [line("nelbo", "diffusion", Blue, Marks), line(BASE_LOSS, "base model (AR)", Green, Smooth)],
        )
        .tight(),
        Chart::of_steps(
            "Visible right side",
            "attn_mask_ratio: later positions that attention sees",
            Format::Percent,
            [line("attn_mask_ratio", "ratio", Green, Smooth)],
        ),
        Chart::of_steps(
            "Learning rate",
            "",
            Format::Exponent,
            [line("learning_rate", "learning rate", Orange, Smooth)],
        ),
        Chart::of_steps("Gradient norm", "before clipping", Format::Number, [line("grad_norm", "norm", Blue, Noisy)])
            .log(),
        Chart::of_steps(
            "Speed",
            "training tokens per second",
            Format::Si,
            [line("tokens_per_s", "tokens/s", Green, Noisy)],
        ),
        Chart::of_steps(
            "Waiting for data",
            "share of the trainer's time",
            Format::Percent,
            [line(DATA_WAIT, "share", Orange, Noisy)],
        ),
        Chart::of_checkpoints(
            "Text quality",
            "gaps filled exactly, texts that the checker passes, TASKS",
            Format::Percent,
            [
                line("infill_exact_match", "gaps", Blue, Marks),
                line("pass_rate", "samples", Orange, Marks),
                line("task_score", "tasks", Green, Marks),
            ],
        ),
    ]
}

/// Returns all charts: those of every run, and one for each task that a checkpoint was evaluated by.
pub fn charts(history: &History) -> Vec<Chart> {
    let figures = history.names().filter_map(|name| name.strip_prefix(TASK)?.rsplit_once('/'));
    let tasks: BTreeSet<&str> = figures.map(|(task, _)| task).collect();
    let tasks = tasks.into_iter().filter_map(|name| Chart::of_task(name, history));
    let ranks = history.metric("exchange_bytes").map(|_| of_ranks()).into_iter().flatten();
    common().into_iter().chain(ranks).chain(tasks).collect()
}

/// The charts of a run in several processes.
fn of_ranks() -> [Chart; 2] {
    [
        Chart::of_steps(
            "Exchange between ranks",
            "share of the step, with waiting for the slowest, which waits least",
            Format::Percent,
            [line(EXCHANGE_MOST, "most", Orange, Noisy), line(EXCHANGE_LEAST, "least", Blue, Noisy)],
        ),
        Chart::of_steps(
            "Traffic between ranks",
            "bytes that all ranks send in a step",
            Format::Si,
            [line("exchange_bytes", "bytes", Green, Smooth)],
        ),
    ]
}

/// Returns the points of every curve of which something is known.
pub fn values(history: &History, charts: &[Chart]) -> BTreeMap<String, Vec<Point>> {
    let level = |value: f64, beside: &str| {
        let scored = history.metric(beside)?.points();
        Some(scored.iter().map(|point| Point::new(point.step(), value)).collect())
    };
    let points = |key: &str| match key {
        DATA_WAIT => Some(Series::shares(history.metric("data_wait_s")?, history.metric("step_s")?)),
        EXCHANGE_LEAST => Some(Series::shares(history.metric("exchange_s_least")?, history.metric("step_s")?)),
        EXCHANGE_MOST => Some(Series::shares(history.metric("exchange_s_most")?, history.metric("step_s")?)),
        BASE_LOSS => level(history.before("ar_loss")?, "nelbo"),
        key => match key.strip_prefix("base/") {
            Some(figure) => level(history.before(key)?, &format!("{TASK}{figure}")),
            None => Some(history.metric(key)?.points().to_vec()),
        },
    };
    let keys = charts.iter().flat_map(|chart| chart.lines.iter()).map(|line| line.key.as_str());
    keys.filter_map(|key| Some((key.to_owned(), points(key)?))).collect()
}

#[cfg(test)]
mod tests {
    use difflow_schema::measures::measure;

    use super::*;
    use crate::history::tests::row;

    /// A curve of a metric that nobody sends would stay empty for ever.
    #[test]
    fn every_curve_is_of_a_declared_metric() {
        for line in common().iter().flat_map(|chart| chart.lines.iter()) {
            let key = line.key.as_str();
            assert!([DATA_WAIT, BASE_LOSS].contains(&key) || measure(key).is_some(), "{key}");
        }
        assert!(["data_wait_s", "step_s", "ar_loss", "nelbo"].iter().all(|name| measure(name).is_some()));
    }

    /// A chart for each task, of its leading figure, with the base model as a level line where it was asked; none for what only begins alike.
    #[test]
    fn every_task_has_a_chart() {
        let mut history = History::default();
        for (name, step, value) in [
            ("task/endings/acc", 0, 0.25),
            ("task/endings/acc", 100, 0.5),
            ("task/endings/acc_norm", 100, 0.75),
            ("base/endings/acc", 0, 0.9),
            ("task/gaps/exact_match_unknown", 100, 0.1),
            ("task/text/bits_per_byte", 100, 1.5),
            ("task/text/word_perplexity", 100, 40.0),
            ("task_score", 100, 0.5),
        ] {
            history.add(&row(name, step, value));
        }
        let charts = charts(&history);
        let titles: Vec<&str> = charts[common().len()..].iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles, ["Task endings", "Task gaps", "Task text"]);
        let values = values(&history, &charts);
        let points =
            |key: &str| -> Vec<(u64, f64)> { values[key].iter().map(|point| (point.step(), point.mean())).collect() };
        assert_eq!(points("task/endings/acc"), [(0, 0.25), (100, 0.5)]);
        assert_eq!(points("base/endings/acc"), [(0, 0.9), (100, 0.9)]);
        let keys: Vec<&str> =
            charts.iter().flat_map(|chart| chart.lines.iter()).map(|line| line.key.as_str()).collect();
        assert!(
            keys.contains(&"task/gaps/exact_match_unknown") && keys.contains(&"task/text/bits_per_byte"),
            "{keys:?}"
        );
    }
}
