//! report.html: a single self-contained file.

use std::collections::BTreeMap;

use difflow_schema::{Sample, Unmasked, Unmaskings};
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::Value;

use crate::charts::{ChartError, Line, chart};
use crate::curves::{self, CHARTS, Chart, Curve};
use crate::figures::Figures;
use crate::format::{duration, percent, si};
use crate::history::History;
use crate::origin::Origin;

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
    summary: Option<String>,
    facts: Vec<(&'static str, String)>,
    table: Vec<[String; 4]>,
    charts: Vec<Card>,
    kinds: Vec<(&'a str, Vec<Shown<'a>>)>,
    /// When and where.
    origin: Vec<(&'static str, String)>,
    /// Files that the run began with, with their sha256.
    inputs: Vec<(String, String)>,
    plugins: Vec<(String, String)>,
    configuration: Vec<(String, String)>,
    dataflow: &'a str,
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

/// A run, apart from what was measured.
#[derive(Default)]
pub struct Run<'a> {
    /// Its name.
    pub name: &'a str,
    /// run.json, if there is one.
    pub record: Option<&'a Value>,
    /// When, where and from which dataflow file.
    pub origin: Option<&'a Origin>,
    /// The node that ended it, if one failed.
    pub failed: Option<&'a str>,
}

/// The page of a run; `unmaskings` are of the last samples.
///
/// # Errors
/// When a curve or the page cannot be made.
pub fn report(run: &Run, history: &History, unmaskings: &Unmaskings) -> Result<String, ReportError> {
    let Run { name, record, origin, failed } = *run;
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
    let titles = BTreeMap::from([("unconditional", "Samples"), ("infill", "Infillings"), ("answer", "Answers")]);
    let title = |kind| titles.get(kind).copied().unwrap_or(kind);
    let kinds =
        history.sample_kinds().into_iter().map(|kind| (title(kind), shown(history, kind, unmaskings))).collect();
    let part = |key: &str| record.and_then(|record| record.get(key)).map(flatten).unwrap_or_default();
    let page = Page {
        run: name,
        failed,
        summary: record.and_then(|record| summary(record.get("configuration")?)),
        facts,
        table: figures.table(),
        charts: cards(history)?,
        kinds,
        origin: origin.map(place).into_iter().flatten().chain(record.map(made_with).unwrap_or_default()).collect(),
        inputs: part("inputs"),
        plugins: part("plugins"),
        configuration: part("configuration"),
        dataflow: origin.map_or("", |origin| &origin.dataflow),
    };
    Ok(environment.get_template("report.html")?.render(Serde(&page))?)
}

/// What was done, in a sentence, as far as the keys say it.
fn summary(configuration: &Value) -> Option<String> {
    // By node and key; up to November 2026 a key of the whole dataflow stood without a node.
    let all = configuration.as_object()?;
    let value = |key: &str| {
        let of_node = || all.iter().find(|(name, _)| name.split_once('.').is_some_and(|(_, name)| name == key));
        all.get(key).or_else(|| Some(of_node()?.1))
    };
    let text = |key: &str| value(key).and_then(Value::as_str);
    let base = text("BASE_MODEL")?;
    let steps = value("STEPS")?.as_u64()?;
    let ar = text("OBJECTIVE") == Some("ar");
    let goal = if ar { "as an autoregressive model" } else { "into a diffusion language model" };
    let verb = if ar { "was trained" } else { "was turned" };
    let rows = value("MICRO_BATCH").and_then(Value::as_u64);
    let rows = rows.map(|rows| rows * value("ACCUMULATION").and_then(Value::as_u64).unwrap_or(1));
    let length = value("SEQUENCE_LENGTH").and_then(Value::as_u64);
    let each = match (rows, length) {
        (Some(rows), Some(length)) => format!(" of {rows} rows of {length} tokens"),
        _ => String::new(),
    };
    Some(format!("The base model {base} {verb} {goal}: {steps} optimizer steps{each}."))
}

/// When and where a run was made.
fn place(origin: &Origin) -> Vec<(&'static str, String)> {
    let time = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%d %H:%M UTC").to_string();
    let times = [("started", time(origin.started)), ("this report", time(chrono::Utc::now()))];
    times.into_iter().chain(origin.facts.iter().cloned()).collect()
}

/// What the programs were built from, and where the model was trained.
fn made_with(record: &Value) -> Vec<(&'static str, String)> {
    let places = [
        ("source revision", "/revision"),
        ("libtorch", "/versions/libtorch"),
        ("dora", "/versions/dora"),
        ("device", "/device"),
    ];
    let text = |place: &str| record.pointer(place).and_then(Value::as_str).filter(|text| !text.is_empty());
    places.into_iter().filter_map(|(name, place)| Some((name, text(place)?.to_owned()))).collect()
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
    let known = curves::values(history);
    let mut cards = Vec::new();
    for &Chart { title, note, zero, lines, .. } in CHARTS {
        let line = |curve: &Curve| {
            let values = known.get(curve.key)?.iter().map(|point| (point.step(), point.mean())).collect();
            Some(Line { curve: *curve, values })
        };
        let lines: Vec<Line> = lines.iter().filter_map(line).collect();
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
                history.add(&row(name, step, 1.0 / (step + 1) as f64));
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
        let page = report(&Run { name: "tiny", record: Some(&record), ..Run::default() }, &full(), &Unmaskings::new())
            .unwrap();
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
        assert_eq!(page.matches("<svg").count(), CHARTS.len());
    }

    /// It must open on a machine without a network, and a sample must not become markup.
    #[test]
    fn the_report_needs_nothing_from_elsewhere_and_escapes_samples() {
        let page = report(&Run { name: "tiny", ..Run::default() }, &full(), &Unmaskings::new()).unwrap();
        for part in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<b>bought"] {
            assert!(!page.contains(part), "{part} in the report");
        }
        assert!(page.contains("&lt;b&gt;bought"), "{page}");
    }

    #[test]
    fn a_failed_run_says_so_and_an_empty_one_shows_no_numbers() {
        let page = report(
            &Run { name: "tiny", failed: Some("trainer"), ..Run::default() },
            &History::default(),
            &Unmaskings::new(),
        )
        .unwrap();
        assert!(page.contains("The run failed: node trainer"), "{page}");
        let well = report(&Run { name: "tiny", ..Run::default() }, &History::default(), &Unmaskings::new()).unwrap();
        assert!(!well.contains("The run failed"), "{well}");
        assert!(!page.contains("<svg") && !page.contains("<table"), "{page}");
    }

    /// Somebody who gets the file alone must be able to say what was run, with what, and to run it again.
    #[test]
    fn the_report_says_what_ran_with_what_and_how_to_repeat_it() {
        let configuration = json!({
            "trainer.BASE_MODEL": "a/model", "trainer.STEPS": 600, "tokenizer.MICRO_BATCH": 4, "trainer.ACCUMULATION": 2,
            "tokenizer.SEQUENCE_LENGTH": 64,
        });
        let plugins =
            json!({"noiser.NOISE_SCHEDULE": {"id": "difflow.noise.linear", "version": "1.0.0", "sha256": null}});
        let record = json!({"configuration": configuration, "inputs": {"a/model/config.json": "0123abcd"}, "plugins": plugins,
                   "revision": "abc123", "versions": {"dora": "1.1.0"}, "device": "cpu"});
        let origin = Origin {
            facts: vec![("processor", "a fast one".into())],
            dataflow: "nodes:\n  - id: <trainer>\n".into(),
            ..Origin::default()
        };
        let run = Run { name: "tiny", record: Some(&record), origin: Some(&origin), failed: None };
        let page = report(&run, &full(), &Unmaskings::new()).unwrap();
        // The escaped slash of paths reads as one.
        let page = page.replace("&#x2f;", "/");
        for part in [
            "The base model a/model was turned into a diffusion language model: 600 optimizer steps of 8 rows of 64 tokens.",
            "started",
            "a fast one",
            "abc123",
            "a/model/config.json",
            "0123abcd",
            "difflow.noise.linear",
            "id: &lt;trainer&gt;",
            "difflow run repeat.yml",
        ] {
            assert!(page.contains(part), "{part} not in the report");
        }
    }

    /// Reports of runs of November 2026 are made again by `difflow report`.
    #[test]
    fn the_keys_of_an_older_record_make_the_same_sentence() {
        let old =
            json!({"BASE_MODEL": "a/model", "STEPS": 600, "MICRO_BATCH": 4, "ACCUMULATION": 2, "SEQUENCE_LENGTH": 64});
        let wanted = "The base model a/model was turned into a diffusion language model: 600 optimizer steps of 8 rows of 64 tokens.";
        assert_eq!(summary(&old).as_deref(), Some(wanted));
    }

    /// Each token appears at the step that revealed it; what was given is there from the start.
    #[test]
    fn a_text_is_shown_as_it_was_unmasked() {
        let token = |text: &str, step| Unmasked { text: text.into(), step, probability: None };
        let tokens = vec![token("Mia ", Some(7)), token("<b>", Some(2)), token(" given", None)];
        let unmaskings = Unmaskings::from([(("unconditional".to_owned(), 0), tokens)]);
        let page = report(&Run { name: "tiny", ..Run::default() }, &full(), &unmaskings).unwrap();
        for part in ["<span style=\"--s:7\">Mia </span>", "<span style=\"--s:2\">&lt;b&gt;</span>", " given"] {
            assert!(page.contains(part), "{part} not in the report");
        }
        assert!(page.contains("@keyframes") && page.contains("prefers-reduced-motion"));
    }
}
