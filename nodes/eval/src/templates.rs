//! The templates of a task, ready to be filled with rows.

use std::collections::BTreeSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value};

use crate::error::EvalError;
use crate::task::{Pieces, Task};

/// A row of a question, and what else a template may name.
pub type Row = Map<String, Value>;

/// The templates of one task.
pub struct Templates {
    task: String,
    environment: Environment<'static>,
    /// Name in the environment and key in the file.
    names: Vec<(String, &'static str)>,
}

/// Names that templates have besides the columns.
const OWN: [&str; 2] = ["choice", "text"];

impl Templates {
    /// Reads the templates of a task. Errors with the key of one that is none.
    pub fn new(task: &Task) -> Result<Self, EvalError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(|e| EvalError::task(&task.name, "file", "templates", said(&e)))?);
        environment.add_filter("common_prefix", |texts: Vec<String>| common_prefix(&texts));
        let mut all = Self { task: task.name.clone(), environment, names: Vec::new() };
        let value = |text: &String| format!("{{{{ ({text}) | tojson }}}}");
        let texts =
            [("context", &task.context), ("text", &task.text), ("right", &task.right), ("answer", &task.answer)];
        for (key, text) in texts.into_iter().chain([("program", &task.program)]) {
            all.add(key.to_owned(), key, text.clone())?;
        }
        for (key, text) in [("choices", &task.choices), ("gold", &task.gold), ("accepted", &task.accepted)] {
            all.add(key.to_owned(), key, text.as_ref().map(value))?;
        }
        for (number, piece) in pieces(task).into_iter().enumerate() {
            all.add(format!("continuation {number}"), "continuation", Some(piece))?;
        }
        Ok(all)
    }

    fn add(&mut self, name: String, key: &'static str, text: Option<String>) -> Result<(), EvalError> {
        let Some(text) = text else { return Ok(()) };
        let added = self.environment.add_template_owned(name.clone(), text.clone());
        added.map_err(|e| EvalError::task(&self.task, key, format!("`{text}`"), said(&e)))?;
        self.names.push((name, key));
        Ok(())
    }

    /// Errors if a template names a column that there is not.
    pub fn check(&self, columns: &[String]) -> Result<(), EvalError> {
        for (name, key) in &self.names {
            let template = self.get(name, key)?;
            let functions: BTreeSet<&str> = self.environment.globals().map(|(name, _)| name).collect();
            let known = |name: &String| {
                columns.contains(name) || OWN.contains(&name.as_str()) || functions.contains(name.as_str())
            };
            let named: BTreeSet<String> = template.undeclared_variables(false).into_iter().collect();
            if let Some(missing) = named.into_iter().find(|name| !known(name)) {
                let allowed = format!("the columns are {}", columns.join(", "));
                return Err(EvalError::task(
                    &self.task,
                    key,
                    format!("column `{missing}`, which there is not"),
                    allowed,
                ));
            }
        }
        Ok(())
    }

    /// Whether the task has a template.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|(own, _)| own == name)
    }

    /// Fills a template. Errors with the question if it cannot be filled.
    pub fn text(&self, name: &str, question: u64, row: &Row) -> Result<String, EvalError> {
        let key = self.names.iter().find(|(own, _)| own == name).map_or("context", |(_, key)| key);
        let filled = self.get(name, key)?.render(Serde(row));
        filled.map_err(|e| EvalError::question(&self.task, question, format!("{key}: {}", said(&e)), "see the row"))
    }

    /// The value of an expression. Errors with the question if it has none.
    pub fn value(&self, name: &str, question: u64, row: &Row) -> Result<Value, EvalError> {
        let text = self.text(name, question, row)?;
        serde_json::from_str(&text)
            .map_err(|e| EvalError::question(&self.task, question, format!("{name}: `{text}`"), e))
    }

    /// What is measured of a candidate, piece by piece.
    pub fn continuation(&self, question: u64, row: &Row) -> Result<Vec<String>, EvalError> {
        let own = self.names.iter().filter(|(_, key)| *key == "continuation");
        own.map(|(name, _)| self.text(name, question, row)).collect()
    }

    fn get(&self, name: &str, key: &'static str) -> Result<minijinja::Template<'_, '_>, EvalError> {
        self.environment.get_template(name).map_err(|e| EvalError::task(&self.task, key, "no template", said(&e)))
    }
}

fn pieces(task: &Task) -> Vec<String> {
    match &task.continuation {
        None => vec!["{{ choice }}".to_owned()],
        Some(Pieces::One(one)) => vec![one.clone()],
        Some(Pieces::Several(several)) => several.clone(),
    }
}

/// What the texts have in common at their beginning, up to the last space in it.
fn common_prefix(texts: &[String]) -> String {
    let Some((first, rest)) = texts.split_first() else { return String::new() };
    let common = first.char_indices().find(|(at, c)| rest.iter().any(|text| !text[*at..].starts_with(*c)));
    let common = common.map_or(first.as_str(), |(at, _)| &first[..at]);
    common.rfind(' ').map_or(String::new(), |at| common[..=at].to_owned())
}

/// An error of minijinja in one line.
fn said(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.to_string(), |detail| format!("{}: {detail}", error.kind()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_common_prefix_ends_with_a_word() {
        let of = |texts: &[&str]| common_prefix(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["so the blanket", "so the bed"]), "so the ");
        assert_eq!(of(&["Sarah", "Maria"]), "");
        assert_eq!(of(&["é a", "é b"]), "é ");
        assert_eq!(of(&["so", "so the"]), "");
    }
}
