//! report.html: one file that needs nothing else.

use std::collections::BTreeMap;

use difflow_schema::{Sample, Unmasked, Unmaskings};
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::Value;

use crate::charts::{ChartError, Line, chart};
use crate::figures::Figures;
use crate::format::{duration, percent, si};
use crate::history::History;

/// Samples shown of each kind.
const SAMPLES: usize = 6;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A curve.
    #[error(transparent)]
    Chart(#[from] ChartError),
    /// The page.
    #[error("cannot fill in the report's template: {0}")]
    Template(#[from] minijinja::Error),
}

/// What the template fills in.
#[derive(Serialize)]
struct Page<'a> {
    run: &'a str,
    failed: Option<&'a str>,
    facts: Vec<(&'static str, String)>,
    table: Vec<[String; 4]>,
    charts: Vec<Card>,
    kinds: Vec<(&'a str, Vec<Shown<'a>>)>,
    configuration: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Card {
    title: &'static str,
    note: &'static str,
    svg: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    step: u64,
    prompt: &'a str,
    text: &'a str,
    /// The text token by token, where it is known how it was unmasked.
    tokens: &'a [Unmasked],
    verdict: &'a str,
    cost: String,
}

/// The page of run `run`; `record` is its run.json, if there is one; `unmaskings` are of the last samples; `failed` names the node that ended the run.
///
/// # Errors
/// When a curve or the page cannot be made.
pub fn report(
    run: &str,
    history: &History,
    record: Option<&Value>,
    unmaskings: &Unmaskings,
    failed: Option<&str>,
) -> Result<String, ReportError> {
    let figures = Figures::of(history);
    let mut environment = Environment::new();
    // The name ends in .html: minijinja then escapes every value, so that a sample cannot break the page.
    environment.add_template("report.html", include_str!("report.html"))?;
    let facts = [
        ("steps", figures.last_step.map(|step| step.to_string())),
        ("training tokens", figures.tokens_seen.map(si)),
        ("training time", figures.training_seconds.map(duration)),
        ("of it waiting for data", figures.data_wait_share.map(percent)),
        ("distinct word pairs", figures.distinct_2.map(percent)),
    ];
    let facts = facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let titles = BTreeMap::from([("unconditional", "Samples"), ("infill", "Infillings"), ("prefix", "Continuations")]);
    let title = |kind| titles.get(kind).copied().unwrap_or(kind);
    let kinds =
        history.sample_kinds().into_iter().map(|kind| (title(kind), shown(history, kind, unmaskings))).collect();
    let configuration = record.map(flatten).unwrap_or_default();
    let page = Page { run, failed, facts, table: figures.table(), charts: cards(history)?, kinds, configuration };
    Ok(environment.get_template("report.html")?.render(Serde(&page))?)
}

fn shown<'a>(history: &'a History, kind: &str, unmaskings: &'a Unmaskings) -> Vec<Shown<'a>> {
    let samples = history.last_samples(kind).into_iter().take(SAMPLES);
    let cost = |s: &Sample| format!("{} forward passes, {:.2} s", s.nfe, s.seconds);
    let tokens = |s: &Sample| unmaskings.get(&(s.kind.clone(), s.index)).map_or(&[][..], Vec::as_slice);
    samples
        .map(|s| Shown {
            step: s.step,
            prompt: &s.prompt,
            text: &s.text,
            tokens: tokens(s),
            verdict: &s.verdict,
            cost: cost(s),
        })
        .collect()
}

fn cards(history: &History) -> Result<Vec<Card>, ReportError> {
    let line = |name, metric: &str| Line { name, values: history.series(metric), marks: false };
    let nelbo = Line { marks: true, ..line("diffusion: NELBO", "nelbo") };
    // The base model's loss does not move: a level line over the same steps.
    let level = history.before("ar_loss").map(|loss| nelbo.values.iter().map(|(step, _)| (*step, loss)).collect());
    let base = Line { name: "base model: AR loss", values: level.unwrap_or_default(), marks: false };
    let charts: [(&str, &str, Vec<Line>, bool); 6] = [
        (
            "Training loss",
            "nats/token; weighted is the NELBO's integrand",
            vec![line("weighted", "loss"), line("unweighted", "loss_unweighted")],
            false,
        ),
        ("Validation", "nats/token, per checkpoint", vec![nelbo, base], false),
        (
            "Attention annealing",
            "attn_mask_ratio: share of the right side that is visible",
            vec![line("ratio", "attn_mask_ratio")],
            true,
        ),
        ("Learning rate", "", vec![line("learning rate", "learning_rate")], true),
        ("Gradient norm", "before clipping", vec![line("grad_norm", "grad_norm")], true),
        ("Speed", "training tokens per second", vec![line("tokens/s", "tokens_per_s")], true),
    ];
    let mut cards = Vec::new();
    for (title, note, lines, zero) in charts {
        let lines: Vec<Line> = lines.into_iter().filter(|line| !line.values.is_empty()).collect();
        cards.extend(chart(title, &lines, zero)?.map(|svg| Card { title, note, svg }));
    }
    Ok(cards)
}

/// A JSON object as `a.b.c` → text.
fn flatten(value: &Value) -> Vec<(String, String)> {
    fn walk(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) => {
                let dot = if prefix.is_empty() { "" } else { "." };
                map.iter().for_each(|(key, value)| walk(&format!("{prefix}{dot}{key}"), value, out));
            }
            Value::String(text) => out.push((prefix.to_owned(), text.clone())),
            other => out.push((prefix.to_owned(), other.to_string())),
        }
    }
    let mut out = Vec::new();
    walk("", value, &mut out);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::figures::tests::history;
    use crate::history::tests::{row, sample};

    fn full() -> History {
        let mut history = history();
        for step in 0..50 {
            for name in ["loss", "loss_unweighted", "learning_rate", "grad_norm", "attn_mask_ratio", "tokens_per_s"] {
                history.add(row(name, step, 1.0 / (step + 1) as f64));
            }
        }
        history.add_samples(vec![
            sample("unconditional", 600, 0, "Mia <b>bought</b> a kite."),
            sample("infill", 600, 0, "left filled right"),
        ]);
        history
    }

    #[test]
    fn the_report_holds_the_numbers_it_was_given() {
        let record = json!({"difflow": "0.1.0", "configuration": {"trainer.LEARNING_RATE": 0.0015}});
        let page = report("tiny", &full(), Some(&record), &Unmaskings::new(), None).unwrap();
        for part in [
            "6.231",
            "2.310 ± 0.021",
            "1.420",
            "41.0 %",
            "22.5 %",
            "(n = 200)",
            "0.8 %",
            "trainer.LEARNING_RATE",
            "0.0015",
            "left filled right",
            "left […] right",
        ] {
            assert!(page.contains(part), "{part} not in the report");
        }
        assert_eq!(page.matches("<svg").count(), 6);
    }

    /// It must open on a machine without a network, and a sample must not become markup.
    #[test]
    fn the_report_needs_nothing_from_elsewhere_and_escapes_samples() {
        let page = report("tiny", &full(), None, &Unmaskings::new(), None).unwrap();
        for part in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<b>bought"] {
            assert!(!page.contains(part), "{part} in the report");
        }
        assert!(page.contains("&lt;b&gt;bought"), "{page}");
    }

    #[test]
    fn a_failed_run_says_so_and_an_empty_one_shows_no_numbers() {
        let page = report("tiny", &History::default(), None, &Unmaskings::new(), Some("trainer")).unwrap();
        assert!(page.contains("trainer") && page.contains("failed"), "{page}");
        assert!(!page.contains("<svg") && !page.contains("<table"), "{page}");
    }

    /// Each token appears at the step that revealed it; what was given is there from the start.
    #[test]
    fn a_text_is_shown_as_it_was_unmasked() {
        let token = |text: &str, step| Unmasked { text: text.into(), step, probability: None };
        let tokens = vec![token("Mia ", Some(7)), token("<b>", Some(2)), token(" given", None)];
        let unmaskings = Unmaskings::from([(("unconditional".to_owned(), 0), tokens)]);
        let page = report("tiny", &full(), None, &unmaskings, None).unwrap();
        for part in ["<span style=\"--s:7\">Mia </span>", "<span style=\"--s:2\">&lt;b&gt;</span>", " given"] {
            assert!(page.contains(part), "{part} not in the report");
        }
        assert!(page.contains("@keyframes") && page.contains("prefers-reduced-motion"));
    }
}
