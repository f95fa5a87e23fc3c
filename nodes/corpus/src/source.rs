//! The key SOURCES: the settings of each source.

use std::collections::BTreeSet;

use difflow_node_kit::problem::Kind;
use difflow_node_kit::{Problem, Problems};
use difflow_tables::{Address, FileProblem, Files, Format, files};
use serde::Deserialize;

/// The table name that stands for each source in turn.
pub const EACH: &str = "source";

/// An entry of SOURCES as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    path: String,
    format: Option<Format>,
    weight: Option<f64>,
}

/// One source of documents.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Name of its SQL table.
    pub name: String,
    /// File, folder or pattern, here or in an object store.
    pub path: String,
    /// Format of its files; `None` goes by their extensions.
    pub format: Option<Format>,
    /// Weight in the mixture, more than 0.
    pub weight: f64,
    /// Whether the weight was written down.
    pub weighted: bool,
}

/// A source with its files. They are looked for once: what is remembered of the corpus, and what is read, are the same.
#[derive(Debug, Clone)]
pub struct Listed {
    pub source: Source,
    pub files: Files,
}

/// As a problem of the key.
pub fn wrong(problem: FileProblem) -> Problem {
    let kind = if problem.unreachable { Kind::Server } else { Kind::Value };
    Problem::new("SOURCES", problem.found, problem.allowed).of_kind(kind)
}

/// Reads the JSON list and looks for the files.
///
/// # Errors
/// Every problem with it, and every source without files.
pub fn list(json: &str) -> Result<Vec<Listed>, Problems> {
    find(parse(json)?)
}

/// Looks for the files of sources.
///
/// # Errors
/// Every source without files.
pub fn find(sources: Vec<Source>) -> Result<Vec<Listed>, Problems> {
    let (mut listed, mut problems) = (Vec::new(), Vec::new());
    for source in sources {
        match files::find(&source.path, source.format) {
            Ok(files) => listed.push(Listed { source, files }),
            Err(problem) => problems.push(wrong(problem)),
        }
    }
    Problems(problems).into_result()?;
    Ok(listed)
}

/// Reads the JSON list.
///
/// # Errors
/// Every problem with it.
pub fn parse(json: &str) -> Result<Vec<Source>, Problems> {
    let entries: Vec<Entry> = serde_json::from_str(json).map_err(|e| {
        let wanted =
            r#"wanted: a JSON list such as [{"path":"a.parquet"},{"name":"b","path":"b/*.jsonl","weight":0.5}]"#;
        Problem::new("SOURCES", json, format!("{e}; {wanted}"))
    })?;
    let several = entries.len() > 1;
    let (mut problems, mut names, mut sources) = (Vec::new(), BTreeSet::new(), Vec::new());
    let mut wrong =
        |found: &dyn std::fmt::Display, allowed: &str| problems.push(Problem::new("SOURCES", found, allowed));
    if entries.is_empty() {
        wrong(&json, "wanted: at least one source");
    }
    for (index, entry) in entries.into_iter().enumerate() {
        let name = entry.name.unwrap_or_else(|| format!("source{}", index + 1));
        let weight = entry.weight.unwrap_or(1.0);
        if !(weight.is_finite() && weight > 0.0) {
            wrong(
                &format!("weight {weight} of `{name}`"),
                "allowed: a finite number more than 0; leave out a source that is not wanted",
            );
        }
        if name.is_empty() || (several && name == EACH) {
            wrong(&format!("name `{name}`"), "choose another name: `source` stands for each source in turn");
        }
        if !names.insert(name.clone()) {
            wrong(&format!("name `{name}` twice"), "give every source its own name");
        }
        // It may hold a secret, so nothing is written down before this.
        if let Some(Err(problem)) = Address::parse(&entry.path) {
            wrong(&problem.found, &problem.allowed);
        }
        sources.push(Source { name, path: entry.path, format: entry.format, weight, weighted: entry.weight.is_some() });
    }
    Problems(problems).into_result()?;
    Ok(sources)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_a_default() {
        let sources = parse(r#"[{"path":"a"},{"path":"b","name":"b","format":"csv","weight":0.5}]"#).unwrap();
        let first = Source { name: "source1".into(), path: "a".into(), format: None, weight: 1.0, weighted: false };
        let second =
            Source { name: "b".into(), path: "b".into(), format: Some(Format::Csv), weight: 0.5, weighted: true };
        assert_eq!(sources, [first, second]);
    }

    #[test]
    fn every_mistake_in_sources_names_what_was_found() {
        for (json, part) in [
            ("data/train.parquet", "wanted: a JSON list"),
            ("[]", "at least one source"),
            (r#"[{"path":"a","wieght":1}]"#, "unknown field `wieght`"),
            (r#"[{"path":"a","format":"xml"}]"#, "unknown variant `xml`"),
            (r#"[{"path":"a","weight":0}]"#, "weight 0 of `source1`"),
            (r#"[{"path":"a","name":"x"},{"path":"b","name":"x"}]"#, "name `x` twice"),
            (r#"[{"path":"a","name":"source"},{"path":"b"}]"#, "choose another name"),
            (r#"[{"path":"az://container/a.jsonl"}]"#, "az://"),
            (r#"[{"path":"s3://key:word@bucket/a.jsonl"}]"#, "`s3://bucket/a.jsonl`"),
        ] {
            let text = parse(json).unwrap_err().to_string();
            assert!(text.starts_with("SOURCES: ") && text.contains(part), "{part} not in {text}");
        }
    }
}
