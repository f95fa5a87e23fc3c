//! The curves of a run, listed once: the live page and report.html draw these.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::history::History;
use crate::series::{Point, Series};

use Color::{Blue, Green, Orange};
use Style::{Marks, Noisy, Smooth};

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
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Curve {
    /// Its series in [`values`].
    pub key: &'static str,
    pub name: &'static str,
    pub color: Color,
    pub style: Style,
}

/// One chart.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Chart {
    pub title: &'static str,
    pub note: &'static str,
    pub format: Format,
    /// Whether the axis begins at 0.
    pub zero: bool,
    /// Whether the page offers a logarithmic axis.
    pub log: bool,
    /// What the page says before there is a value.
    pub empty: &'static str,
    pub lines: &'static [Curve],
}

impl Chart {
    /// Of every step, with an axis that begins at 0.
    const fn of_steps(title: &'static str, note: &'static str, format: Format, lines: &'static [Curve]) -> Self {
        Self { title, note, format, zero: true, log: false, empty: "The first step is on its way.", lines }
    }

    /// Of every checkpoint, with an axis that begins at 0.
    const fn of_checkpoints(title: &'static str, note: &'static str, format: Format, lines: &'static [Curve]) -> Self {
        let empty = "Scores come with the first checkpoint that is finished.";
        Self { title, note, format, zero: true, log: false, empty, lines }
    }

    const fn tight(self) -> Self {
        Self { zero: false, ..self }
    }

    const fn log(self) -> Self {
        Self { log: true, ..self }
    }
}

const fn line(key: &'static str, name: &'static str, color: Color, style: Style) -> Curve {
    Curve { key, name, color, style }
}

/// Every chart, in the order in which they are shown.
pub const CHARTS: &[Chart] = &[
    Chart::of_steps(
        "Training loss",
        "nats per token; weighted is the NELBO's integrand",
        Format::Number,
        &[line("loss", "weighted", Blue, Noisy), line("loss_unweighted", "unweighted", Orange, Noisy)],
    )
    .tight()
    .log(),
    Chart::of_checkpoints(
        "Validation NELBO",
        "nats per token on held-out text; the base model's loss is exact",
        Format::Number,
        &[line("nelbo", "diffusion", Blue, Marks), line(BASE_LOSS, "base model (AR)", Green, Smooth)],
    )
    .tight(),
    Chart::of_steps(
        "Visible right side",
        "attn_mask_ratio: later positions that attention sees",
        Format::Percent,
        &[line("attn_mask_ratio", "ratio", Green, Smooth)],
    ),
    Chart::of_steps("Learning rate", "", Format::Exponent, &[line("learning_rate", "learning rate", Orange, Smooth)]),
    Chart::of_steps("Gradient norm", "before clipping", Format::Number, &[line("grad_norm", "norm", Blue, Noisy)])
        .log(),
    Chart::of_steps(
        "Speed",
        "training tokens per second",
        Format::Si,
        &[line("tokens_per_s", "tokens/s", Green, Noisy)],
    ),
    Chart::of_steps(
        "Waiting for data",
        "share of the trainer's time",
        Format::Percent,
        &[line(DATA_WAIT, "share", Orange, Noisy)],
    ),
    Chart::of_checkpoints(
        "Text quality",
        "gaps filled exactly, texts that the checker passes, TASKS",
        Format::Percent,
        &[
            line("infill_exact_match", "gaps", Blue, Marks),
            line("pass_rate", "samples", Orange, Marks),
            line("task_score", "tasks", Green, Marks),
        ],
    ),
];

/// Returns the points of every curve of which something is known.
pub fn values(history: &History) -> BTreeMap<&'static str, Vec<Point>> {
    let points = |key| match key {
        DATA_WAIT => Some(Series::shares(history.metric("data_wait_s")?, history.metric("step_s")?)),
        BASE_LOSS => {
            let (loss, scored) = (history.before("ar_loss")?, history.metric("nelbo")?.points());
            Some(scored.iter().map(|point| Point::new(point.step(), loss)).collect())
        }
        metric => Some(history.metric(metric)?.points().to_vec()),
    };
    let keys = CHARTS.iter().flat_map(|chart| chart.lines).map(|line| line.key);
    keys.filter_map(|key| Some((key, points(key)?))).collect()
}

#[cfg(test)]
mod tests {
    use difflow_schema::measures::measure;

    use super::*;

    /// A curve of a metric that nobody sends would stay empty for ever.
    #[test]
    fn every_curve_is_of_a_declared_metric() {
        for line in CHARTS.iter().flat_map(|chart| chart.lines) {
            assert!([DATA_WAIT, BASE_LOSS].contains(&line.key) || measure(line.key).is_some(), "{}", line.key);
        }
        assert!(["data_wait_s", "step_s", "ar_loss", "nelbo"].iter().all(|name| measure(name).is_some()));
    }
}
