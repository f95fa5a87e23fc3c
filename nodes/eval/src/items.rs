//! The questions of a task as texts: rows of its source, put into its templates.

use difflow_diffusion::keyed;
use serde_json::Value;

use crate::error::EvalError;
use crate::task::{FewShot, Kind, Source, Task};
use crate::templates::{Row, Templates};

/// A question as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its number.
    pub id: u64,
    /// The row that it was made of.
    pub row: Row,
    pub body: Body,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Choice {
        candidates: Vec<Candidate>,
        gold: usize,
    },
    Perplexity {
        text: String,
    },
    /// A gap, or with nothing on its right a continuation.
    Write {
        left: String,
        right: Option<String>,
        answer: Option<String>,
        accepted: Vec<String>,
    },
}

/// A candidate as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// As the list of candidates has it.
    pub label: String,
    /// What is given.
    pub context: String,
    /// What is measured, piece by piece.
    pub continuation: Vec<String>,
}

/// Reads the questions of a task, at most `limit` of them; `seed` draws the examples. Errors with the key or the question that is wrong.
pub fn read(task: &Task, templates: &Templates, limit: Option<usize>, seed: u64) -> Result<Vec<Item>, EvalError> {
    let first = task.first.into_iter().chain(limit).min();
    // Examples may be any of the questions.
    let own_examples = task.few_shot.as_ref().is_some_and(|few| few.source.is_none());
    let mut rows = table(task, &task.source, task.sql.as_deref(), first.filter(|_| !own_examples))?;
    if rows.rows.is_empty() {
        return Err(EvalError::task(&task.name, "source", "no rows", "allowed: files with a row a question"));
    }
    templates.check(&rows.columns)?;
    let examples =
        task.few_shot.as_ref().map(|few| Examples::read(task, few, &rows.rows, templates, seed)).transpose()?;
    rows.rows.truncate(first.unwrap_or(usize::MAX));
    let all = (0..).zip(rows.rows);
    all.map(|(id, row)| {
        let before = examples.as_ref().map_or_else(String::new, |examples| examples.before(id));
        let body = body(task, templates, id, &row, &before)?;
        Ok(Item { id, row, body })
    })
    .collect()
}

fn table(
    task: &Task,
    source: &Source,
    sql: Option<&str>,
    limit: Option<usize>,
) -> Result<difflow_tables::Rows, EvalError> {
    let path = task.path(source)?;
    let rows = difflow_tables::rows(&path, source.format, &Task::texts(source), sql, limit);
    rows.map_err(|problem| EvalError::source(&task.name, "source", &problem))
}

fn body(task: &Task, templates: &Templates, id: u64, row: &Row, before: &str) -> Result<Body, EvalError> {
    let wrong = |found: &dyn std::fmt::Display, allowed: &str| Err(EvalError::question(&task.name, id, found, allowed));
    match task.kind {
        Kind::Choice => {
            let labels = strings(task, "choices", id, templates.value("choices", id, row)?)?;
            if labels.is_empty() {
                return wrong(&"no candidates", "wanted: at least one");
            }
            let mut candidates = Vec::with_capacity(labels.len());
            for label in labels {
                let mut row = row.clone();
                row.insert("choice".to_owned(), label.clone().into());
                let context = format!("{before}{}", templates.text("context", id, &row)?);
                let continuation = templates.continuation(id, &row)?;
                if continuation.concat().trim().is_empty() {
                    return wrong(&"an empty candidate", "wanted: some text for every candidate");
                }
                candidates.push(Candidate { label, context, continuation });
            }
            let gold = templates.value("gold", id, row)?;
            let number = match &gold {
                Value::Number(number) => number.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0).map(|n| n as usize),
                Value::String(text) => candidates.iter().position(|candidate| candidate.label == *text),
                _ => None,
            };
            match number.filter(|&number| number < candidates.len()) {
                Some(gold) => Ok(Body::Choice { candidates, gold }),
                None => {
                    let allowed =
                        format!("allowed: a number from 0 to {}, or a candidate's text", candidates.len() - 1);
                    wrong(&format!("gold {gold}"), &allowed)
                }
            }
        }
        Kind::Perplexity => {
            let text = templates.text("text", id, row)?;
            if text.is_empty() { wrong(&"an empty text", "wanted: some text") } else { Ok(Body::Perplexity { text }) }
        }
        Kind::Gap | Kind::Generate => {
            let left = format!("{before}{}", templates.text("context", id, row)?);
            let given = |name| templates.has(name).then(|| templates.text(name, id, row)).transpose();
            let (right, answer) = (given("right")?, given("answer")?);
            let accepted = match &answer {
                _ if templates.has("accepted") => strings(task, "accepted", id, templates.value("accepted", id, row)?)?,
                Some(answer) => vec![answer.clone()],
                None => Vec::new(),
            };
            if accepted.iter().chain(&answer).all(|answer| answer.trim().is_empty()) {
                return wrong(&"an empty answer", "wanted: some text");
            }
            Ok(Body::Write { left, right, answer, accepted })
        }
    }
}

/// A value that has to be a list of texts; numbers become texts.
fn strings(task: &Task, key: &'static str, id: u64, value: Value) -> Result<Vec<String>, EvalError> {
    let list = match value {
        Value::Array(list) => list,
        other => {
            return Err(EvalError::question(&task.name, id, format!("{key}: {other}"), "wanted: a list of texts"));
        }
    };
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(EvalError::question(&task.name, id, format!("{key}: {other} in a list"), "wanted: texts")),
    };
    list.into_iter().map(text).collect()
}

/// Examples that stand before questions.
struct Examples {
    texts: Vec<String>,
    few: FewShot,
    /// Whether they are the questions themselves: none stands before itself.
    own: bool,
    seed: u64,
    stage: String,
}

impl Examples {
    fn read(
        task: &Task,
        few: &FewShot,
        questions: &[Row],
        templates: &Templates,
        seed: u64,
    ) -> Result<Self, EvalError> {
        let others = few.source.as_ref().map(|source| table(task, source, few.sql.as_deref(), None)).transpose()?;
        if let Some(others) = &others {
            templates.check(&others.columns)?;
        }
        let own = others.is_none();
        let rows = others.as_ref().map_or(questions, |others| &others.rows);
        if rows.len() < few.count + usize::from(own) {
            let allowed = format!("wanted: {} examples before each question", few.count);
            return Err(EvalError::task(&task.name, "few_shot", format!("{} rows", rows.len()), allowed));
        }
        let texts = (0..).zip(rows).map(|(id, row)| {
            Ok(match body(task, templates, id, row, "")? {
                Body::Choice { candidates, gold } => {
                    format!("{}{}", candidates[gold].context, candidates[gold].continuation.concat())
                }
                Body::Perplexity { text } => text,
                Body::Write { left, right, answer, accepted } => {
                    let answer = answer.or_else(|| accepted.first().cloned()).unwrap_or_default();
                    format!("{left}{answer}{}", right.unwrap_or_default())
                }
            })
        });
        let texts = texts.collect::<Result<_, EvalError>>()?;
        Ok(Self { texts, few: few.clone(), own, seed, stage: format!("examples of {}", task.name) })
    }

    /// What stands before a question. It depends on the question alone.
    fn before(&self, question: u64) -> String {
        let mut rng = keyed::rng(self.seed, &self.stage, question, 0);
        let order = keyed::permutation(self.texts.len(), &mut rng).into_iter().map(|at| at as usize);
        let chosen = order.filter(|&at| !(self.own && at as u64 == question)).take(self.few.count);
        chosen.fold(String::new(), |all, at| all + &self.texts[at] + &self.few.separator)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    fn items(rows: &str, yaml: &str) -> Result<Vec<Item>, EvalError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
        let path = dir.path().join("mine.yml");
        std::fs::write(&path, format!("about: a\nsource: {{path: rows.jsonl}}\n{yaml}")).unwrap();
        let task = Task::read(&path)?;
        read(&task, &Templates::new(&task)?, None, 0)
    }

    const CHOICE: &str =
        "kind: choice\ncontext: 'Q: {{ q }}'\nchoices: c\ngold: g\nmetrics: [acc]\ncontinuation: ' {{ choice }}'\n";

    fn row(q: &str, c: &str, g: &str) -> String {
        format!("{{\"q\": \"{q}\", \"c\": {c}, \"g\": {g}}}\n")
    }

    #[test]
    fn rows_become_questions() {
        let all = items(&(row("a", "[\"x\", \"y\"]", "1") + &row("b<", "[\"z\"]", "0")), CHOICE).unwrap();
        let Body::Choice { candidates, gold } = &all[0].body else { panic!("{all:?}") };
        assert_eq!(
            (candidates[1].context.as_str(), &candidates[1].continuation[..], *gold),
            ("Q: a", &[" y".to_owned()][..], 1)
        );
        let Body::Choice { candidates, .. } = &all[1].body else { panic!("{all:?}") };
        assert_eq!((all[1].id, candidates[0].context.as_str()), (1, "Q: b<"), "nothing is escaped");
    }

    /// Each before anything is computed, with what to look at.
    #[test]
    fn what_is_wrong_with_the_rows_is_said() {
        let good = row("a", "[\"x\", \"y\"]", "1");
        for (rows, yaml, parts) in [
            (good.clone(), CHOICE.replace("{{ q }}", "{{ query }}"), ["column `query`", "q, c, g"]),
            (good.clone() + &row("b", "[\"x\", \"y\"]", "2"), CHOICE.to_owned(), ["question 1", "gold 2"]),
            (good.clone() + &row("b", "[\"x\", \" \"]", "0"), CHOICE.to_owned(), ["question 1", "an empty candidate"]),
            (good.clone() + &row("b", "[]", "0"), CHOICE.to_owned(), ["question 1", "no candidates"]),
            (good.clone(), CHOICE.replace("gold: g", "gold: q"), ["gold \"a\"", "a candidate's text"]),
            (good.clone(), CHOICE.replace("choices: c", "choices: q"), ["choices", "a list of texts"]),
            (good.clone(), CHOICE.replace("{{ q }}", "{{ q "), ["context", "syntax error"]),
            (good.clone(), format!("{CHOICE}sql: SELECT nothing FROM source\n"), ["source", "nothing"]),
            (good.clone(), format!("{CHOICE}few_shot: {{count: 3}}\n"), ["few_shot", "1 rows"]),
        ] {
            let error = items(&rows, &yaml).unwrap_err();
            let text = error.to_string();
            assert!(
                error.is_configuration() && parts.iter().all(|part| text.contains(part)),
                "{parts:?} not in {text}"
            );
        }
    }

    #[test]
    fn examples_are_others_and_stay_the_same_when_there_are_more_questions() {
        let rows: String = (0..6).map(|n| row(&format!("q{n}"), "[\"x\", \"y\"]", &(n % 2).to_string())).collect();
        let all = items(&rows, &format!("{CHOICE}few_shot: {{count: 2, separator: '|'}}\n")).unwrap();
        for (number, item) in all.iter().enumerate() {
            let Body::Choice { candidates, .. } = &item.body else { panic!("{item:?}") };
            let parts: Vec<&str> = candidates[0].context.split('|').collect();
            assert_eq!((parts.len(), parts[2]), (3, format!("Q: q{number}").as_str()));
            assert!(
                parts[..2].iter().all(|part| !part.contains(&format!("q{number} ")) && part.len() == "Q: q0 x".len())
            );
        }
        let first = items(&rows, &format!("{CHOICE}first: 2\nfew_shot: {{count: 2, separator: '|'}}\n")).unwrap();
        assert_eq!(first[..], all[..2]);
    }

    /// Every file that comes with difflow; those whose data are not here are read, not opened.
    #[test]
    fn all_tasks_in_data_are_right() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/tasks"));
        let all = Task::all(folder).unwrap();
        assert!(all.len() > 15, "{}", all.len());
        let (data, mut opened) = (difflow_tests::real_data("the questions of published tasks"), 0);
        for task in &all {
            let templates = Templates::new(task).unwrap();
            let ours = !task.source.path.contains('$');
            if ours || (data.is_some() && task.source.path.starts_with("$DIFFLOW_DATA_DIR")) {
                opened += 1;
                let items = read(task, &templates, Some(50), 0).unwrap_or_else(|e| panic!("{e}"));
                assert!(!items.is_empty(), "{}", task.name);
            }
        }
        assert!(opened >= if data.is_some() { 18 } else { 4 }, "{opened}");
        for suite in crate::task::Suite::all(folder).unwrap() {
            for name in &suite.tasks {
                assert!(all.iter().any(|task| task.name == *name), "{}: no task {name}", suite.name);
            }
        }
    }
}
