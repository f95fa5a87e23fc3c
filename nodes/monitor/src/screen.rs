//! The final screen: the run's result in the terminal.

use std::path::Path;

use difflow_schema::Sample;

use crate::figures::Figures;
use crate::format::{duration, percent, si, wrap};
use crate::history::History;

/// Texts from nothing that are shown.
const SAMPLES: usize = 3;
/// Characters of a line of text.
const WIDTH: usize = 96;

/// The final screen. What was not measured is left out.
pub fn screen(figures: &Figures, history: &History, report: &Path) -> String {
    let mut text = training(figures);
    text.push_str(&table(figures));
    for (number, sample) in history.last_samples("unconditional").into_iter().take(SAMPLES).enumerate() {
        text.push_str(&format!("\nsample {}{}\n{}", number + 1, verdict(sample), wrap(&sample.text, WIDTH, "  ")));
    }
    let prompted = |kind, heading, count| {
        let samples = history.last_samples(kind).into_iter().take(count);
        let shown = samples.map(|sample| {
            let given = wrap(&format!("given: {}", sample.prompt), WIDTH, "  ");
            format!("\n{heading}{}\n{given}{}", verdict(sample), wrap(&format!("made: {}", sample.text), WIDTH, "  "))
        });
        shown.collect::<String>()
    };
    text.push_str(&prompted("answer", "answer", SAMPLES));
    text.push_str(&prompted("infill", "infilling", 1));
    text.push_str(&format!("\nreport: {}\n", report.display()));
    format!("\n{}", text.trim_start_matches('\n'))
}

/// The verdict in words after a heading.
fn verdict(sample: &Sample) -> String {
    let step = sample.step;
    if sample.verdict.is_empty() {
        format!(" (step {step})")
    } else {
        format!(" (step {step}; checker: {})", sample.verdict)
    }
}

fn training(figures: &Figures) -> String {
    let Some(step) = figures.last_step else { return String::new() };
    let mut parts = vec![format!("trained {step} steps")];
    parts.extend(figures.tokens_seen.map(|tokens| format!("{} tokens", si(tokens))));
    parts.extend(figures.training_seconds.map(duration));
    parts.extend(figures.data_wait_share.map(|share| format!("{} of it waiting for data", percent(share))));
    parts.join(", ") + "\n"
}

fn table(figures: &Figures) -> String {
    let rows = figures.table();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["", "before", "after", "base model (AR)"].map(str::to_owned);
    let rows: Vec<&[String; 4]> = std::iter::once(&head).chain(&rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let line = |row: &&[String; 4]| {
        let cells = (1..4).map(|c| format!("   {:>1$}", row[c], widths[c])).collect::<String>();
        format!("{:<1$}{cells}", row[0], widths[0]).trim_end().to_owned() + "\n"
    };
    let mut text = String::from("\n") + &rows.iter().map(line).collect::<String>();
    if figures.score("infill_exact_match").is_some_and(|score| score.base.is_some()) {
        text.push_str("(gaps: before and after see both sides, the base model only the left one)\n");
    }
    if figures.score("nelbo_with_length").is_some() {
        text.push_str(
            "(with length: the NELBO is given the length of a document, the base model's loss has to predict it)\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::history;
    use crate::history::tests::{row, sample};

    fn show(history: &History) -> String {
        screen(&Figures::of(history), history, Path::new("runs/default/report.html"))
    }

    #[test]
    fn the_screen_holds_every_figure_that_was_measured() {
        let mut history = history();
        history.add_samples((0..5).map(|i| sample("unconditional", 600, i, &format!("Once upon {i}."))).collect());
        history.add_samples(vec![sample("infill", 600, 0, "left filled right")]);
        let text = show(&history);
        for part in [
            "6.231",
            "2.310 ± 0.021",
            "1.420",
            "3.1 %",
            "41.0 %",
            "22.5 %",
            "63.0 %",
            "(n = 200)",
            "0.8 % of it waiting",
            "Once upon 2.",
            "given: left […] right",
            "made: left filled right",
            "report: runs/default/report.html",
        ] {
            assert!(text.contains(part), "{part} not in\n{text}");
        }
        assert!(!text.contains("Once upon 3."), "more than three samples:\n{text}");
    }

    /// A run stopped after some steps has no scores: no table, no zeros, no NaN.
    #[test]
    fn missing_numbers_are_left_out() {
        let mut history = History::default();
        assert_eq!(show(&history), "\nreport: runs/default/report.html\n");
        history.add(&row("loss", 7, 3.0));
        assert_eq!(show(&history), "\ntrained 7 steps\n\nreport: runs/default/report.html\n");
        history.add(&row("nelbo", 0, 6.0));
        let text = show(&history);
        assert!(
            text.contains("6.000") && !text.contains("gaps") && !text.contains("NaN") && !text.contains("checker"),
            "{text}"
        );
    }

    #[test]
    fn a_text_that_fails_the_checker_is_shown_as_failing() {
        let mut history = History::default();
        let bad = Sample {
            verdict: "counts do not add up".into(),
            ..sample("unconditional", 600, 0, "Two and two is five.")
        };
        history.add_samples(vec![bad]);
        assert!(show(&history).contains("sample 1 (step 600; checker: counts do not add up)"));
    }
}
