//! What the page shows, and how a reader is kept up to date.
//!
//! A new reader first gets everything (`state`), and then the changes (`update`). Everything here is bounded: series
//! by [`crate::series::LIMIT`] points, patterns and texts by their own limits.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::curves::Chart;
use crate::page::attention::{self, Frame};
use crate::page::batch::Row;
use crate::page::status::Status;
use crate::series::Point;

/// What the monitor has to say; `None` and empty where nothing is new.
#[derive(Debug, Default)]
pub struct News {
    /// Where the run is.
    pub status: Status,
    /// All charts ([`crate::curves::charts`]).
    pub charts: Vec<Chart>,
    /// All points of their curves ([`crate::curves::values`]).
    pub series: BTreeMap<String, Vec<Point>>,
    /// A row of a batch.
    pub row: Option<Row>,
    /// An attention pattern.
    pub pattern: Option<difflow_schema::Preview>,
    /// Steps of the checkpoints that have samples.
    pub samples: Option<Vec<u64>>,
    /// Texts of the last of them: told, not asked for, because after the end of the run nobody answers.
    pub texts: Option<Value>,
}

/// Everything that is shown.
#[derive(Debug, Default)]
pub struct View {
    status: Status,
    charts: Vec<Chart>,
    series: BTreeMap<String, Vec<Point>>,
    frames: Vec<Frame>,
    row: Option<Row>,
    samples: Vec<u64>,
    texts: Option<Value>,
}

/// A list from an index on: what stood there before is replaced.
#[derive(Serialize)]
struct Change<'a, T> {
    from: usize,
    points: &'a [T],
}

#[derive(Serialize)]
struct Update<'a> {
    status: &'a Status,
    /// All of them, where there is a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    charts: Option<&'a [Chart]>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    series: BTreeMap<&'a str, Change<'a, Point>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<Change<'a, Frame>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<&'a Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<&'a [u64]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    texts: Option<&'a Value>,
}

#[derive(Serialize)]
struct State<'a> {
    run: &'a str,
    version: &'a str,
    #[serde(flatten)]
    update: Update<'a>,
}

impl View {
    /// Takes news; the update for those who know everything up to now, as JSON.
    pub fn take(&mut self, news: News) -> String {
        let before = std::mem::replace(&mut self.series, news.series);
        let new_charts = news.charts.len() > self.charts.len();
        if new_charts {
            self.charts = news.charts;
        }
        self.status = news.status;
        let from: BTreeMap<&str, usize> = self
            .series
            .iter()
            .map(|(name, points)| (name.as_str(), same(before.get(name).map_or(&[][..], Vec::as_slice), points)))
            .collect();
        let frames = news.pattern.map(|preview| {
            let before = self.frames.clone();
            attention::add(&mut self.frames, Frame::of(&preview));
            same(&before, &self.frames)
        });
        let new_row = news.row.is_some();
        self.row = news.row.or(self.row.take());
        let new_samples = news.samples.as_ref().is_some_and(|steps| !steps.is_empty());
        self.samples = news.samples.unwrap_or(std::mem::take(&mut self.samples));
        let new_texts = news.texts.is_some();
        self.texts = news.texts.or(self.texts.take());
        let changed = self.series.iter().filter(|(name, points)| from[name.as_str()] < points.len());
        json(&Update {
            status: &self.status,
            charts: Some(self.charts.as_slice()).filter(|_| new_charts),
            series: changed.map(|(name, points)| (name.as_str(), change(points, from[name.as_str()]))).collect(),
            attention: frames.map(|from| change(&self.frames, from)),
            preview: self.row.as_ref().filter(|_| new_row),
            samples: Some(self.samples.as_slice()).filter(|_| new_samples),
            texts: self.texts.as_ref().filter(|_| new_texts),
        })
    }

    /// Everything, as JSON, for one who knows nothing.
    pub fn state(&self, run: &str) -> String {
        let update = Update {
            status: &self.status,
            charts: Some(&self.charts),
            series: self.series.iter().map(|(name, points)| (name.as_str(), change(points, 0))).collect(),
            attention: Some(change(&self.frames, 0)).filter(|frames| !frames.points.is_empty()),
            preview: self.row.as_ref(),
            samples: Some(self.samples.as_slice()).filter(|samples| !samples.is_empty()),
            texts: self.texts.as_ref(),
        };
        json(&State { run, version: env!("CARGO_PKG_VERSION"), update })
    }
}

/// How many of the first entries are the same.
fn same<T: PartialEq>(before: &[T], now: &[T]) -> usize {
    before.iter().zip(now).take_while(|(a, b)| a == b).count()
}

fn change<T>(points: &[T], from: usize) -> Change<'_, T> {
    Change { from, points: &points[from..] }
}

fn json(value: &impl Serialize) -> String {
    // Keys are texts and numbers finite or null, so there is nothing that JSON cannot say.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::curves::{charts, common, values};
    use crate::history::History;
    use crate::history::tests::row;
    use difflow_schema::Preview;

    fn news(history: &History) -> News {
        let charts = charts(history);
        News { series: values(history, &charts), charts, ..News::default() }
    }

    fn read(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    /// What a browser knows after an update: the same as main.js does.
    fn follow(known: &mut BTreeMap<String, Vec<Value>>, update: &Value) {
        for (name, change) in update["series"].as_object().into_iter().flatten() {
            let points = known.entry(name.clone()).or_default();
            points.truncate(change["from"].as_u64().unwrap() as usize);
            points.extend(change["points"].as_array().unwrap().iter().cloned());
        }
    }

    #[test]
    fn who_follows_the_updates_knows_what_a_new_reader_is_told() {
        let (mut view, mut history, mut known) = (View::default(), History::default(), BTreeMap::new());
        for step in 1..5000 {
            for name in ["loss", "learning_rate", "step_s", "data_wait_s"] {
                history.add(&row(name, step, 1.0 / step as f64));
            }
            if step % 7 == 0 || step > 4990 {
                follow(&mut known, &read(&view.take(news(&history))));
            }
        }
        let mut new = BTreeMap::new();
        follow(&mut new, &read(&view.state("r")));
        assert!(new == known);
        assert_eq!(new.keys().collect::<Vec<_>>(), ["data_wait_share", "learning_rate", "loss"]);
        assert_eq!(new["data_wait_share"][5][1], 1.0);
    }

    /// A step a second for eleven days: what a reader is sent must not grow with it.
    #[test]
    fn what_is_sent_stays_small_over_a_million_steps() {
        let (mut view, mut history) = (View::default(), History::default());
        let mut largest = 0;
        for step in 1..=1_000_000_u64 {
            for name in common().iter().flat_map(|chart| chart.lines.iter()).map(|line| line.key.as_str()) {
                history.add(&row(name, step, f64::from(step as u32 % 97) / 97.0));
            }
            if step % 5000 == 0 {
                view.take(news(&history));
                largest = largest.max(view.state("r").len());
            }
        }
        assert!(largest < 1_000_000, "{largest} bytes");
        let update = view.take(news(&history));
        assert!(update.len() < 1000, "nothing is new, but {} bytes are sent", update.len());
    }

    #[test]
    fn an_update_holds_what_is_new_and_nothing_else() {
        let mut view = View::default();
        let mut history = History::default();
        history.add(&row("loss", 1, 0.1));
        let preview = Preview { attention: vec![255], length: 1, ..Preview::default() };
        let first = News { pattern: Some(preview), samples: Some(vec![0]), ..news(&history) };
        let first = read(&view.take(first));
        assert_eq!(first["series"]["loss"], serde_json::json!({"from": 0, "points": [[1, 0.1]]}));
        assert_eq!(
            (first["samples"].as_array().unwrap().len(), &first["attention"]["points"][0]["cells"]),
            (1, &Value::from("f"))
        );
        assert_eq!(first["charts"].as_array().unwrap().len(), common().len());
        history.add(&row("loss", 2, 0.2));
        let second = read(&view.take(news(&history)));
        assert_eq!(second["series"]["loss"], serde_json::json!({"from": 1, "points": [[2, 0.2]]}));
        assert!(
            second.get("charts").is_none()
                && second.get("attention").is_none()
                && second.get("samples").is_none()
                && second.get("preview").is_none()
        );
        // A task comes with the first checkpoint that was scored.
        history.add(&row("task/endings/acc", 2, 0.5));
        let third = read(&view.take(news(&history)));
        assert_eq!(third["charts"][common().len()]["lines"][0]["key"], "task/endings/acc");
        let state = read(&view.state("r"));
        assert_eq!(state["charts"], third["charts"]);
        assert_eq!(
            (&state["run"], &state["samples"][0], &state["series"]["loss"]["points"][1][0]),
            (&"r".into(), &0.into(), &2.into())
        );
    }
}
