//! A task as its YAML file says it.

use std::path::{Path, PathBuf};

use difflow_inference::Scoring;
use difflow_tables::{Format, Texts};
use difflow_text::Lengths;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::EvalError;

/// What is asked of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Which of some candidates is the most probable?
    Choice,
    /// How probable is a text?
    Perplexity,
    /// What belongs in a gap?
    Gap,
    /// What comes after a prompt?
    Generate,
}

/// Where questions come from: files as the corpus node reads them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// File, folder or pattern, relative to the task file; `$NAME` is an environment variable.
    pub path: String,
    /// parquet, jsonl, csv or text; default: by the file's extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Of text: what stands between two pieces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// Of text: pieces of a row, in the columns text_1, text_2, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<usize>,
}

/// Examples before a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewShot {
    /// How many.
    pub count: usize,
    /// Where they come from; default: the other questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// A query over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// What stands between them and before the question.
    #[serde(default = "blank_line")]
    pub separator: String,
}

fn blank_line() -> String {
    "\n\n".into()
}

/// One template, or several whose texts are encoded apart from each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Pieces {
    One(String),
    Several(Vec<String>),
}

/// How texts become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// What is given and what follows as one text; spaces between them belong to what follows (lm-evaluation-harness).
    #[default]
    Joint,
    /// Each piece for itself (the paper's code).
    Apart,
}

/// What stands before a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    /// The token that began every document in training.
    #[default]
    Bos,
    /// What the tokenizer's own file puts there, before every piece that is encoded apart.
    Tokenizer,
    /// Nothing.
    None,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Whether the most probable candidate is the right one.
    Acc,
    /// The same, of the values by the bytes of the candidates.
    AccNorm,
    /// exp of the nats a word, a byte; bits a byte; nats a token.
    Perplexity,
    /// Whether the text is the answer, white space around it apart.
    ExactMatch,
    /// Whether an accepted answer is in the text, both without articles, punctuation and capitals (TriviaQA).
    Contains,
    /// ROUGE-1, ROUGE-2 and ROUGE-L, F-measures.
    Rouge,
    /// Whether what stands behind #### is the answer's (GSM8K).
    FinalAnswer,
    /// Whether the program passes its tests; needs --allow-code-execution.
    #[serde(rename = "pass_at_1")]
    PassAt1,
}

/// Whether the model is told how long an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// As long as the right answer.
    Oracle,
    /// Within bounds; the model decides.
    Unknown,
}

/// Steps of decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Steps {
    Number(u32),
    Named(StepsName),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepsName {
    /// As many as the answer has tokens.
    Length,
}

/// A task file. Templates are minijinja's, over the columns of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its file's name without the ending.
    #[serde(skip)]
    pub name: String,
    /// The folder of its file.
    #[serde(skip)]
    folder: PathBuf,
    /// What it is, for people.
    pub about: String,
    pub kind: Kind,
    pub source: Source,
    /// A query over the table `source`, which gives a row a question. Default: all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// The first so many questions only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<usize>,
    /// What is given: of a choice what stands before the candidates, of a gap its left side, of a generation the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Of a choice: an expression for the list of candidates. `choice` stands for one of them in `context` and `continuation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<String>,
    /// Of a choice: what is measured of a candidate; default `{{ choice }}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation: Option<Pieces>,
    /// Of a choice: an expression for the right candidate, its number from 0 or its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
    /// Of perplexity: the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Of a gap: its right side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
    /// Of a gap or a generation: the right answer. Default: the longest accepted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Of a gap or a generation: an expression for the list of answers that count as right. Default: the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
    /// Of a gap or a generation: the text ends before any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub until: Vec<String>,
    /// Of a gap or a generation: bounds of its length in tokens where the model is not told it, such as 1..32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<String>,
    /// Of a gap or a generation: whether the model is told the length.
    #[serde(default = "both", skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<Told>,
    /// Of a gap or a generation: steps of decoding, a number or `length`. Default: the decoding's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
    /// Decoding options by their names as keys of a dataflow file. Default: the surest position first, always its most probable token.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub decoding: Map<String, Value>,
    /// Of a gap: a question whose text is longer than this many tokens is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_longer: Option<usize>,
    /// Of pass_at_1: the program that is run, with `text` for what the model wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShot>,
    #[serde(default)]
    pub encoding: Encoding,
    #[serde(default)]
    pub anchor: Anchor,
    /// How candidates are measured by a model that sees both sides; default: llada-mc. One that reads from left to right is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scoring: Option<Scoring>,
    /// Draws of the scoring, or its steps of t.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draws: Option<u32>,
    pub metrics: Vec<Metric>,
}

fn both() -> Vec<Told> {
    vec![Told::Oracle, Told::Unknown]
}

impl Task {
    /// Reads a task file. Errors with the file if it cannot be read, or with the key that means nothing.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let text = std::fs::read_to_string(path).map_err(|e| EvalError::file(path)(&e))?;
        let mut task: Self = serde_saphyr::from_str(&text).map_err(|e| {
            let allowed = format!("in {}; docs/EVALUATION.md lists the keys", path.display());
            EvalError::task(&name, "file", e, allowed)
        })?;
        task.name = name;
        task.folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        task.check()?;
        Ok(task)
    }

    /// Reads all tasks of a folder, by name. Errors if one cannot be read.
    pub(crate) fn all(folder: &Path) -> Result<Vec<Self>, EvalError> {
        let entries = std::fs::read_dir(folder).map_err(|e| EvalError::file(folder)(&e))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "yml"));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// What of it decides the answers, as the file says it.
    pub fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The bounds of an answer whose length is not told.
    pub fn lengths(&self) -> Lengths {
        self.length.as_deref().and_then(Lengths::parse).unwrap_or(Lengths { low: 1, high: 32 })
    }

    /// The path of a source, with variables, relative to the task file. Errors if a variable is not set.
    pub fn path(&self, source: &Source) -> Result<String, EvalError> {
        let mut path = String::new();
        let mut rest = source.path.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
            let value = std::env::var(&after[..end]).map_err(|_| {
                let allowed = format!("set the variable {} to the folder with the data", &after[..end]);
                EvalError::task(&self.name, "source", format!("`{}`", source.path), allowed)
            })?;
            path += before;
            path += &value;
            rest = &after[end..];
        }
        path += rest;
        Ok(self.folder.join(path).to_string_lossy().into_owned())
    }

    /// How the text of a source is cut.
    pub fn texts(source: &Source) -> Texts {
        Texts { separator: source.separator.clone(), column: "text".into(), pieces: source.pieces.unwrap_or(1) }
    }

    fn check(&self) -> Result<(), EvalError> {
        let wrong = |key, found: &str, allowed: &str| Err(EvalError::task(&self.name, key, found, allowed));
        let needs = match self.kind {
            Kind::Choice => vec![
                ("context", self.context.is_some()),
                ("choices", self.choices.is_some()),
                ("gold", self.gold.is_some()),
            ],
            Kind::Perplexity => vec![("text", self.text.is_some())],
            Kind::Gap => vec![("context", self.context.is_some()), ("right", self.right.is_some())],
            Kind::Generate => vec![("context", self.context.is_some())],
        };
        for (key, there) in needs {
            if !there {
                return wrong(key, "nothing", "this kind of task needs it");
            }
        }
        let writes = matches!(self.kind, Kind::Gap | Kind::Generate);
        if writes && self.answer.is_none() && self.accepted.is_none() {
            return wrong("answer", "nothing", "this kind of task needs it, or `accepted`");
        }
        let fits = |metric: &Metric| match metric {
            Metric::Acc | Metric::AccNorm => self.kind == Kind::Choice,
            Metric::Perplexity => self.kind == Kind::Perplexity,
            _ => writes,
        };
        if self.metrics.is_empty() || !self.metrics.iter().all(fits) {
            let allowed = match self.kind {
                Kind::Choice => "allowed for a choice: acc, acc_norm",
                Kind::Perplexity => "allowed for perplexity: perplexity",
                _ => "allowed for texts: exact_match, contains, rouge, final_answer, pass_at_1",
            };
            return wrong("metrics", &format!("{:?}", self.metrics), allowed);
        }
        if self.metrics.contains(&Metric::PassAt1) && self.program.is_none() {
            return wrong("program", "nothing", "pass_at_1 needs the program that is run");
        }
        if self.length.as_deref().is_some_and(|length| Lengths::parse(length).is_none()) {
            return wrong("length", self.length.as_deref().unwrap_or_default(), "allowed: two numbers such as 1..32");
        }
        if self.draws == Some(0) {
            return wrong("draws", "0", "allowed: 1 or more");
        }
        if self.told.is_empty() {
            return wrong("told", "nothing", "allowed: oracle, unknown");
        }
        if self.source.pieces == Some(0) {
            return wrong("source.pieces", "0", "allowed: 1 or more");
        }
        if self.anchor != Anchor::Bos && self.kind == Kind::Perplexity {
            return wrong(
                "anchor",
                "other than bos",
                "allowed for perplexity: bos, since something has to stand before a text",
            );
        }
        Ok(())
    }
}

/// Tasks under one name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    #[serde(skip)]
    pub name: String,
    /// What it is, for people.
    pub about: String,
    /// Their names.
    pub tasks: Vec<String>,
}

impl Suite {
    /// Reads all suites of a folder of tasks: the files in its folder `suites`, if it has one. Errors if one cannot be read.
    pub(crate) fn all(folder: &Path) -> Result<Vec<Self>, EvalError> {
        let folder = folder.join("suites");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(&folder).map_err(|e| EvalError::file(&folder)(&e))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "yml"));
        paths.sort();
        let read = |path: &PathBuf| {
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let text = std::fs::read_to_string(path).map_err(|e| EvalError::file(path)(&e))?;
            let suite: Self = serde_saphyr::from_str(&text)
                .map_err(|e| EvalError::task(&name, "suite", e, "allowed: `about` and the list `tasks`"))?;
            Ok(Self { name, ..suite })
        };
        paths.iter().map(read).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Task, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.yml");
        std::fs::write(&path, text).unwrap();
        Task::read(&path).map_err(|e| e.to_string())
    }

    const GOOD: &str =
        "about: a\nkind: choice\nsource: {path: a.jsonl}\ncontext: '{{ q }}'\nchoices: c\ngold: g\nmetrics: [acc]\n";

    #[test]
    fn what_a_task_file_lacks_or_misspells_is_said_with_the_key() {
        assert_eq!(read(GOOD).unwrap().name, "mine");
        for (text, parts) in [
            ("about: [", vec!["mine"]),
            (&GOOD.replace("kind: choice", "kind: choose"), vec!["choose", "perplexity"]),
            (&GOOD.replace("gold: g\n", ""), vec!["gold"]),
            (&GOOD.replace("[acc]", "[rouge]"), vec!["metrics", "acc_norm"]),
            (&format!("{GOOD}draws: 0\n"), vec!["draws", "1 or more"]),
            (&format!("{GOOD}drawz: 3\n"), vec!["drawz"]),
            (&GOOD.replace("kind: choice", "kind: gap"), vec!["right"]),
        ] {
            let error = read(text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} not in {error}");
        }
    }

    #[test]
    fn a_path_may_have_a_variable_that_must_be_set() {
        let task = read(&GOOD.replace("a.jsonl", "$DIFFLOW_NO_SUCH_VARIABLE/a.jsonl")).unwrap();
        let error = task.path(&task.source).unwrap_err();
        assert!(error.to_string().contains("DIFFLOW_NO_SUCH_VARIABLE") && error.is_configuration());
        let task = read(GOOD).unwrap();
        assert!(task.path(&task.source).unwrap().ends_with("/a.jsonl"));
    }
}
