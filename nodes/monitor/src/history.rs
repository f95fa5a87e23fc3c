//! Everything the monitor has received, in bounded memory: a series for each metric, and the texts of the last
//! checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use difflow_schema::{Metrics, Sample};

use crate::series::Series;

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

/// Metrics and samples. What comes twice (a resumed run repeats steps) is kept once; the last word counts.
#[derive(Debug, Default)]
pub struct History {
    metrics: BTreeMap<String, Series>,
    /// By kind and number, of the last checkpoint that has the kind.
    samples: BTreeMap<(String, u64), Sample>,
}

impl History {
    /// Keeps one metric.
    pub fn add(&mut self, row: &Row) {
        match self.metrics.get_mut(&row.name) {
            Some(series) => series.add(row.step, row.value),
            None => _ = self.metrics.insert(row.name.clone(), Series::new(row.step, row.value)),
        }
    }

    /// Keeps the metrics of a message from `node`; returns them as rows.
    pub fn add_metrics(&mut self, node: &str, metrics: Metrics) -> Vec<Row> {
        let row = |m: difflow_schema::Metric| Row { node: node.into(), name: m.name, step: m.step, value: m.value };
        let rows: Vec<Row> = metrics.0.into_iter().map(row).collect();
        rows.iter().for_each(|row| self.add(row));
        rows
    }

    /// Keeps samples. Those of earlier checkpoints are in the run's folder.
    pub fn add_samples(&mut self, samples: Vec<Sample>) {
        for sample in samples {
            let newest = self.samples.values().filter(|kept| kept.kind == sample.kind).map(|kept| kept.step).max();
            if newest.is_some_and(|newest| newest > sample.step) {
                continue;
            }
            self.samples.retain(|_, kept| kept.kind != sample.kind || kept.step == sample.step);
            self.samples.insert((sample.kind.clone(), sample.index), sample);
        }
    }

    /// A metric, if it was measured.
    pub fn metric(&self, name: &str) -> Option<&Series> {
        self.metrics.get(name)
    }

    /// The names of all metrics that were measured.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.metrics.keys().map(String::as_str)
    }

    /// The values of a metric by step, in order; means of spans of steps in a long run.
    pub fn series(&self, name: &str) -> Vec<(u64, f64)> {
        let points = self.metrics.get(name).map(Series::points).unwrap_or_default();
        points.iter().map(|point| (point.step(), point.mean())).collect()
    }

    /// The value of a metric at step 0: of the base model, before any training.
    pub fn before(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).map(Series::first).filter(|(step, _)| *step == 0).map(|(_, value)| value)
    }

    /// The last value of a metric after step 0, with its step.
    pub fn after(&self, name: &str) -> Option<(u64, f64)> {
        self.metrics.get(name).map(Series::last).filter(|(step, _)| *step > 0)
    }

    /// Kinds of samples that there are.
    pub fn sample_kinds(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|(kind, _)| kind.as_str()).collect()
    }

    /// The step of the last checkpoint that has samples.
    pub fn last_sample_step(&self) -> Option<u64> {
        self.samples.values().map(|sample| sample.step).max()
    }

    /// The samples of a kind from the last checkpoint that has some.
    pub fn last_samples(&self, kind: &str) -> Vec<&Sample> {
        self.samples.values().filter(|sample| sample.kind == kind).collect()
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
            history.add(&row("loss", step, value));
        }
        history.add(&row("loss_unweighted", 9, 1.0));
        assert_eq!(history.series("loss"), [(1, 5.0), (2, 4.5), (3, 3.0)]);
    }

    /// The first value that was measured is not the base model's unless it was measured at step 0.
    #[test]
    fn before_is_step_zero_and_after_is_not() {
        let mut history = History::default();
        history.add(&row("nelbo", 100, 3.0));
        assert_eq!((history.before("nelbo"), history.after("nelbo")), (None, Some((100, 3.0))));
        let mut history = History::default();
        history.add(&row("nelbo", 0, 6.0));
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
