//! The run's result in numbers. Every figure was measured by some node; what was not measured is `None`.

use serde::Serialize;

use crate::history::History;
use crate::series::Series;

/// What the final screen and the report show.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// The last optimizer step that was reported.
    pub last_step: Option<u64>,
    /// Validation NELBO of the base model as a diffusion model, nats per token.
    pub nelbo_before: Option<f64>,
    /// The same of the last checkpoint scored.
    pub nelbo_after: Option<f64>,
    /// Its standard error.
    pub nelbo_after_stderr: Option<f64>,
    /// Autoregressive loss of the base model on the same documents, nats per token.
    pub ar_loss: Option<f64>,
    /// Share of gaps filled exactly, both sides visible, before adaptation.
    pub infill_before: Option<f64>,
    /// The same of the last checkpoint scored.
    pub infill_after: Option<f64>,
    /// The same of the base model, which sees the left side only.
    pub infill_ar: Option<f64>,
    /// Share of unconditional samples that the checker passes, before adaptation.
    pub pass_rate_before: Option<f64>,
    /// The same of the last checkpoint sampled.
    pub pass_rate_after: Option<f64>,
    /// How many samples that is of.
    pub samples_checked: Option<u64>,
    /// Share of distinct word pairs in the last samples.
    pub distinct_2: Option<f64>,
    /// Share of the trainer's time in which it waited for data.
    pub data_wait_share: Option<f64>,
    /// Training tokens seen.
    pub tokens_seen: Option<f64>,
    /// The trainer's seconds, all its processes together.
    pub training_seconds: Option<f64>,
}

impl Figures {
    /// Reads the figures off the history.
    pub fn of(history: &History) -> Self {
        let after = |name: &str| history.after(name).map(|(_, value)| value);
        // Of the same checkpoint, or it would belong to another number.
        let beside = |name: &str, of: &str| {
            let (step, _) = history.after(of)?;
            history.metric(name)?.at(step)
        };
        // Repeated steps are counted once in both sums.
        let sum = |name: &str| history.metric(name).map(Series::sum);
        let (whole, waited) = (sum("step_s").unwrap_or(0.0), sum("data_wait_s"));
        Self {
            last_step: history.metric("loss").map(|series| series.last().0),
            nelbo_before: history.before("nelbo"),
            nelbo_after: after("nelbo"),
            nelbo_after_stderr: beside("nelbo_stderr", "nelbo"),
            ar_loss: history.before("ar_loss"),
            infill_before: history.before("infill_exact_match"),
            infill_after: after("infill_exact_match"),
            infill_ar: history.before("ar_infill_exact_match"),
            pass_rate_before: history.before("pass_rate"),
            pass_rate_after: after("pass_rate"),
            samples_checked: beside("samples_checked", "pass_rate").map(|n| n as u64),
            distinct_2: after("distinct_2"),
            data_wait_share: waited.filter(|_| whole > 0.0).map(|waited| waited / whole),
            tokens_seen: after("tokens_seen"),
            training_seconds: (whole > 0.0).then_some(whole),
        }
    }

    /// The scores as rows of (what, before, after, base model); a row without any number is left out.
    pub fn table(&self) -> Vec<[String; 4]> {
        let number = |value: Option<f64>| value.map(crate::format::number).unwrap_or_default();
        let percent = |value: Option<f64>| value.map(crate::format::percent).unwrap_or_default();
        let checked = self.samples_checked.map(|n| format!(" (n = {n})")).unwrap_or_default();
        let after = match (self.nelbo_after, self.nelbo_after_stderr) {
            (Some(nelbo), Some(stderr)) => format!("{} ± {}", number(Some(nelbo)), number(Some(stderr))),
            (nelbo, _) => number(nelbo),
        };
        let rows = [
            ["validation NELBO, nats/token".into(), number(self.nelbo_before), after, number(self.ar_loss)],
            [
                "gaps infilled exactly".into(),
                percent(self.infill_before),
                percent(self.infill_after),
                percent(self.infill_ar),
            ],
            [
                format!("samples that pass the checker{checked}"),
                percent(self.pass_rate_before),
                percent(self.pass_rate_after),
                String::new(),
            ],
        ];
        rows.into_iter().filter(|row| row[1..].iter().any(|cell| !cell.is_empty())).collect()
    }
}

#[cfg(test)]
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
        assert_eq!((figures.nelbo_before, figures.nelbo_after, figures.ar_loss), (Some(6.231), Some(2.31), Some(1.42)));
        assert_eq!((figures.samples_checked, figures.data_wait_share), (Some(200), Some(0.008)));
        assert_eq!(figures.pass_rate_before, None);
    }

    /// n of one checkpoint beside the rate of another would be a made-up number.
    #[test]
    fn a_count_belongs_to_the_checkpoint_of_its_rate() {
        let mut history = history();
        history.add(&row("samples_checked", 900, 7.0));
        assert_eq!(Figures::of(&history).samples_checked, Some(200));
        history.add(&row("pass_rate", 1000, 0.7));
        assert_eq!(Figures::of(&history).samples_checked, None);
    }

    #[test]
    fn nothing_measured_is_nothing_shown() {
        let figures = Figures::of(&History::default());
        assert_eq!(figures, Figures::default());
        assert!(figures.table().is_empty());
    }
}
