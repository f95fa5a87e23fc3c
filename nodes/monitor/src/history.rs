//! Everything the monitor was told, in memory: metrics by (node, name, step), samples by (kind, step, index).

use std::collections::{BTreeMap, BTreeSet};

use difflow_schema::{Metrics, Sample};

/// One metric and who measured it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Id of the node that measured it.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Its value; may be NaN.
    pub value: f64,
}

/// Points of a metric that are kept, about: a run of a million steps needs no more memory than one of ten thousand, and no more
/// points fit into a chart. On disk all are kept.
const POINTS: usize = 8192;
/// The newest of them are never thinned out: a resumed run may repeat those steps.
const RECENT: usize = 2048;

/// A metric by step.
#[derive(Debug)]
struct Series {
    points: BTreeMap<u64, f64>,
    /// Of the older ones, the multiples of this are kept, and the first.
    every: u64,
    /// Sum of the values that were thinned out.
    gone: f64,
}

impl Default for Series {
    fn default() -> Self {
        Self { points: BTreeMap::new(), every: 1, gone: 0.0 }
    }
}

impl Series {
    fn add(&mut self, step: u64, value: f64) {
        self.points.insert(step, value);
        if self.points.len() <= POINTS {
            return;
        }
        let first = self.points.keys().next().copied();
        let recent = self.points.keys().rev().nth(RECENT - 1).copied().unwrap_or_default();
        // Well below the limit, or the next point would begin anew.
        loop {
            let Self { points, every, gone } = self;
            points.retain(|&step, value| {
                let stays = step >= recent || step.is_multiple_of(*every) || Some(step) == first;
                *gone += if stays { 0.0 } else { *value };
                stays
            });
            if points.len() <= POINTS / 4 * 3 {
                break;
            }
            *every *= 2;
        }
    }
}

/// Metrics and samples. What comes twice (a resumed run repeats steps) is kept once; the last word counts.
#[derive(Debug, Default)]
pub struct History {
    metrics: BTreeMap<(String, String), Series>,
    samples: BTreeMap<(String, u64, u64), Sample>,
}

impl History {
    /// Keeps one metric.
    pub fn add(&mut self, row: Row) {
        self.metrics.entry((row.name, row.node)).or_default().add(row.step, row.value);
    }

    /// Keeps the metrics of a message from `node`; returns them as rows.
    pub fn add_metrics(&mut self, node: &str, metrics: Metrics) -> Vec<Row> {
        let row = |m: difflow_schema::Metric| Row { node: node.into(), name: m.name, step: m.step, value: m.value };
        let rows: Vec<Row> = metrics.0.into_iter().map(row).collect();
        rows.iter().cloned().for_each(|row| self.add(row));
        rows
    }

    /// Keeps samples.
    pub fn add_samples(&mut self, samples: Vec<Sample>) {
        for sample in samples {
            self.samples.insert((sample.kind.clone(), sample.step, sample.index), sample);
        }
    }

    /// The values of a metric by step, in order; of a long run not all of the older ones.
    pub fn series(&self, name: &str) -> Vec<(u64, f64)> {
        let merged: BTreeMap<u64, f64> =
            self.of(name).flat_map(|series| &series.points).map(|(s, v)| (*s, *v)).collect();
        merged.into_iter().collect()
    }

    /// The sum of a metric over all steps; `None` when there is none of that name.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let sums = self.of(name).map(|series| series.gone + series.points.values().sum::<f64>());
        sums.reduce(|a, b| a + b)
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        let all = self.metrics.range((name.to_owned(), String::new())..);
        all.take_while(move |((n, _), _)| n == name).map(|(_, series)| series)
    }

    /// The value of a metric at step 0: of the base model, before any training.
    pub fn before(&self, name: &str) -> Option<f64> {
        self.series(name).first().filter(|(step, _)| *step == 0).map(|(_, value)| *value)
    }

    /// The last value of a metric after step 0, with its step.
    pub fn after(&self, name: &str) -> Option<(u64, f64)> {
        self.series(name).last().copied().filter(|(step, _)| *step > 0)
    }

    /// Kinds of samples that there are.
    pub fn sample_kinds(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|(kind, _, _)| kind.as_str()).collect()
    }

    /// The step of the last checkpoint that has samples.
    pub fn last_sample_step(&self) -> Option<u64> {
        self.samples.keys().map(|(_, step, _)| *step).max()
    }

    /// The samples of a kind from the last checkpoint that has some.
    pub fn last_samples(&self, kind: &str) -> Vec<&Sample> {
        let of_kind = || self.samples.values().filter(|sample| sample.kind == kind);
        let last = of_kind().map(|sample| sample.step).max();
        of_kind().filter(|sample| Some(sample.step) == last).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn row(name: &str, step: u64, value: f64) -> Row {
        Row { node: "trainer".into(), name: name.into(), step, value }
    }

    pub fn sample(kind: &str, step: u64, index: u64, text: &str) -> Sample {
        let (prompt, verdict) = ("left […] right".to_owned(), "ok".to_owned());
        Sample { step, index, kind: kind.into(), prompt, text: text.into(), verdict, nfe: 64, seconds: 0.5 }
    }

    #[test]
    fn a_repeated_step_is_kept_once_and_the_last_value_counts() {
        let mut history = History::default();
        for (step, value) in [(1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5)] {
            history.add(row("loss", step, value));
        }
        history.add(row("loss_unweighted", 9, 1.0));
        assert_eq!(history.series("loss"), [(1, 5.0), (2, 4.5), (3, 3.0)]);
    }

    /// A long run needs no more memory than a short one, and its sums stay right.
    #[test]
    fn older_points_of_a_long_run_are_thinned_out_and_counted_still() {
        let mut history = History::default();
        (0..50_000).for_each(|step| history.add(row("step_s", step, 0.5)));
        let series = history.series("step_s");
        assert!(series.len() <= POINTS && series.len() > POINTS / 4, "{}", series.len());
        assert_eq!((series.first(), series.last()), (Some(&(0, 0.5)), Some(&(49_999, 0.5))));
        // The beginning of a curve stays as fine as its middle.
        let count = |from: u64| series.iter().filter(|(step, _)| (from..from + 10_000).contains(step)).count();
        assert_eq!(count(0), count(20_000));
        // Steps that a resumed run repeats count once.
        (49_000..50_000).for_each(|step| history.add(row("step_s", step, 0.5)));
        assert_eq!(history.sum("step_s"), Some(25_000.0));
        assert_eq!(history.sum("nothing"), None);
    }

    /// The first value that was measured is not the base model's unless it was measured at step 0.
    #[test]
    fn before_is_step_zero_and_after_is_not() {
        let mut history = History::default();
        history.add(row("nelbo", 100, 3.0));
        assert_eq!((history.before("nelbo"), history.after("nelbo")), (None, Some((100, 3.0))));
        let mut history = History::default();
        history.add(row("nelbo", 0, 6.0));
        assert_eq!((history.before("nelbo"), history.after("nelbo")), (Some(6.0), None));
    }

    #[test]
    fn samples_shown_are_those_of_the_last_checkpoint() {
        let mut history = History::default();
        history.add_samples(vec![
            sample("infill", 100, 0, "new"),
            sample("infill", 0, 0, "old"),
            sample("infill", 0, 1, "old"),
        ]);
        let texts: Vec<&str> = history.last_samples("infill").iter().map(|s| s.text.as_str()).collect();
        assert_eq!(texts, ["new"]);
        assert!(history.last_samples("unconditional").is_empty());
    }
}
