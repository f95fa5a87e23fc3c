//! The run's result in numbers. Every figure was measured by some node; what was not measured is `None`.

use difflow_schema::measures::{MEASURES, Measure, Unit};

use crate::history::History;
use crate::series::Series;

/// What the final screen and the report show.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// The last optimizer step that was reported.
    pub last_step: Option<u64>,
    /// The scores that have a row, those that were measured.
    pub scores: Vec<Score>,
    /// Share of distinct word pairs in the last samples.
    pub distinct_2: Option<f64>,
    /// Share of the trainer's time in which it waited for data.
    pub data_wait_share: Option<f64>,
    /// Training tokens seen.
    pub tokens_seen: Option<f64>,
    /// The trainer's seconds, all its processes together.
    pub training_seconds: Option<f64>,
}

/// A score before and after training, as [`difflow_schema::measures`] says that it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// What it is.
    pub measure: &'static Measure,
    /// Of the base model, before any training.
    pub before: Option<f64>,
    /// Of the last checkpoint.
    pub after: Option<f64>,
    /// Its standard error there.
    pub error: Option<f64>,
    /// How many things it is of.
    pub count: Option<u64>,
    /// Of the base model, read left to right.
    pub base: Option<f64>,
}

impl Score {
    /// That of `measure`, if any of its numbers was measured.
    fn of(measure: &'static Measure, history: &History) -> Option<Self> {
        let figure = measure.figure?;
        let name = measure.name;
        let beside_another =
            MEASURES.iter().any(|one| one.figure.is_some_and(|figure| figure.comparable == Some(name)));
        if beside_another && history.metric(name).is_none() {
            return None;
        }
        let measured = |one: &&Measure| history.metric(one.name).is_some();
        let with_base = |one: &&Measure| one.figure.is_some_and(|figure| figure.base == Some(name));
        if MEASURES.iter().filter(with_base).any(|one| measured(&one)) {
            return None;
        }
        // Of the same checkpoint, or it would belong to another number.
        let beside = |other: &str| {
            let (step, _) = history.after(name)?;
            history.metric(other)?.at(step)
        };
        // The base model stands beside the number that compares with its own.
        let base = figure.base.filter(|_| figure.comparable.is_none_or(|other| history.metric(other).is_none()));
        let score = Self {
            measure,
            before: history.before(name),
            after: history.after(name).map(|(_, value)| value),
            error: figure.error.and_then(beside),
            count: figure.count.and_then(beside).map(|count| count as u64),
            base: base.and_then(|base| history.before(base)),
        };
        (score.before.is_some() || score.after.is_some()).then_some(score)
    }

    fn row(&self) -> [String; 4] {
        let cell = |value: Option<f64>| match value {
            Some(value) if self.measure.unit == Unit::Share => crate::format::percent(value),
            value => value.map(crate::format::number).unwrap_or_default(),
        };
        let error = self.error.map(|error| format!(" ± {}", cell(Some(error)))).unwrap_or_default();
        let count = self.count.map(|count| format!(" (n = {count})")).unwrap_or_default();
        [
            format!("{}{count}", self.measure.title().replace(", nats per token", ", nats/token")),
            cell(self.before),
            cell(self.after) + &error,
            cell(self.base),
        ]
    }
}

impl Figures {
    /// Reads the figures off the history.
    pub fn of(history: &History) -> Self {
        let after = |name: &str| history.after(name).map(|(_, value)| value);
        // Repeated steps are counted once in both sums.
        let sum = |name: &str| history.metric(name).map(Series::sum);
        let (whole, waited) = (sum("step_s").unwrap_or(0.0), sum("data_wait_s"));
        Self {
            last_step: history.metric("loss").map(|series| series.last().0),
            scores: MEASURES.iter().filter_map(|measure| Score::of(measure, history)).collect(),
            distinct_2: after("distinct_2"),
            data_wait_share: waited.filter(|_| whole > 0.0).map(|waited| waited / whole),
            tokens_seen: after("tokens_seen"),
            training_seconds: (whole > 0.0).then_some(whole),
        }
    }

    /// A score by the name of its metric.
    pub fn score(&self, name: &str) -> Option<&Score> {
        self.scores.iter().find(|score| score.measure.name == name)
    }

    /// The scores as rows of (what, before, after, base model).
    pub fn table(&self) -> Vec<[String; 4]> {
        self.scores.iter().map(Score::row).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::history::tests::row;

    pub fn history() -> History {
        let mut history = History::default();
        let rows = [
            ("nelbo", 0, 6.231),
            ("nelbo", 300, 3.5),
            ("nelbo", 600, 2.31),
            ("nelbo_stderr", 600, 0.021),
            ("ar_loss", 0, 1.42),
            ("infill_exact_match", 0, 0.031),
            ("infill_exact_match", 600, 0.41),
            ("ar_infill_exact_match", 0, 0.225),
            ("pass_rate", 600, 0.63),
            ("samples_checked", 300, 50.0),
            ("samples_checked", 600, 200.0),
            ("loss", 600, 2.2),
            ("step_s", 599, 0.5),
            ("step_s", 600, 0.5),
            ("data_wait_s", 599, 0.004),
            ("data_wait_s", 600, 0.004),
        ];
        rows.into_iter().for_each(|(name, step, value)| history.add(&row(name, step, value)));
        history
    }

    #[test]
    fn figures_are_those_of_step_zero_and_the_last_checkpoint() {
        let figures = Figures::of(&history());
        let nelbo = figures.score("nelbo").unwrap();
        assert_eq!((nelbo.before, nelbo.after, nelbo.base), (Some(6.231), Some(2.31), Some(1.42)));
        let passed = figures.score("pass_rate").unwrap();
        assert_eq!((passed.count, passed.before, figures.data_wait_share), (Some(200), None, Some(0.008)));
        assert!(figures.score("nelbo_with_length").is_none());
    }

    /// The loss left to right pays for the length of a document, the bound does not: the two stood side by side as if they compared.
    #[test]
    fn the_base_models_loss_stands_beside_the_bound_that_compares_with_it() {
        let mut history = history();
        history.add(&row("nelbo_with_length", 600, 2.353));
        let figures = Figures::of(&history);
        assert_eq!(figures.score("nelbo").unwrap().base, None);
        assert_eq!(figures.score("nelbo_with_length").unwrap().base, Some(1.42));
        let table = figures.table();
        assert_eq!(table[0], ["validation NELBO, nats/token", "6.231", "2.310 ± 0.021", ""]);
        assert_eq!(table[1][..], ["validation NELBO with length, nats/token", "", "2.353 ± 0.021", "1.420"]);
    }

    /// n of one checkpoint beside the rate of another would be a made-up number.
    #[test]
    fn a_count_belongs_to_the_checkpoint_of_its_rate() {
        let mut history = history();
        history.add(&row("samples_checked", 900, 7.0));
        let count = |history: &History| Figures::of(history).score("pass_rate").unwrap().count;
        assert_eq!(count(&history), Some(200));
        history.add(&row("pass_rate", 1000, 0.7));
        assert_eq!(count(&history), None);
    }

    /// A run with OBJECTIVE: ar showed the base model's loss in two rows and its own in none.
    #[test]
    fn a_model_trained_left_to_right_shows_its_own_loss() {
        let mut history = History::default();
        [(0, 1.9), (50, 0.3)].into_iter().for_each(|(step, loss)| history.add(&row("ar_loss", step, loss)));
        let table = Figures::of(&history).table();
        assert_eq!(table, [["loss left to right, nats/token", "1.900", "0.300", ""].map(str::to_owned)]);
    }

    #[test]
    fn nothing_measured_is_nothing_shown() {
        let figures = Figures::of(&History::default());
        assert_eq!(figures, Figures::default());
        assert!(figures.table().is_empty());
    }
}
