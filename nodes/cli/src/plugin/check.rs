//! `difflow plugin check`.

use std::time::{Duration, Instant};

use difflow_plugin_host::{Kind, Library, find, is_file};
use eyre::Result;
use serde_json::{Value, json};

use crate::plugin::child::{self, Ended};
use crate::plugin::table::table;
use crate::plugin::tests;

/// The outcome of one test.
struct Outcome {
    library: String,
    component: String,
    test: String,
    ended: Ended,
    took: Duration,
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self.ended {
            Ended::Well(_) => "passed",
            Ended::Skipped(_) => "skipped",
            Ended::Badly(_) => "failed",
        }
    }

    fn message(&self) -> &str {
        match &self.ended {
            Ended::Well(_) => "",
            Ended::Skipped(message) | Ended::Badly(message) => message,
        }
    }
}

/// Checks what is named, or everything built in; all tests, or only some.
pub fn run(components: &[String], only: &[String], as_json: bool) -> Result<u8> {
    let mut outcomes = Vec::new();
    if components.is_empty() {
        check_library("builtin", None, only, &mut outcomes)?;
    }
    for value in components {
        match place(value) {
            Ok((library, id)) => check_library(&library, id.as_deref(), only, &mut outcomes)?,
            Err(message) => outcomes.push(unusable(value, message)),
        }
    }
    let failed = outcomes.iter().filter(|outcome| outcome.word() == "failed").count();
    if as_json {
        println!("{:#}", as_value(&outcomes));
    } else {
        let rows: Vec<Vec<String>> = outcomes
            .iter()
            .map(|o| {
                let took = format!("{} ms", o.took.as_millis());
                vec![o.component.clone(), o.test.clone(), o.word().to_owned(), took, o.message().replace('\n', " ")]
            })
            .collect();
        println!("{}", table(&["component", "test", "result", "time", ""], &rows));
        println!("\n{} tests, {failed} failed", outcomes.len());
    }
    Ok(u8::from(failed > 0))
}

fn as_value(outcomes: &[Outcome]) -> Value {
    let one = |o: &Outcome| {
        json!({
            "library": o.library, "component": o.component, "test": o.test, "result": o.word(),
            "message": o.message(), "milliseconds": o.took.as_millis() as u64,
        })
    };
    Value::from(outcomes.iter().map(one).collect::<Vec<_>>())
}

/// Library and component of what is named on the command line. A file is not opened here.
fn place(value: &str) -> Result<(String, Option<String>), String> {
    if value == "builtin" {
        return Ok((value.to_owned(), None));
    }
    let (path, id) = match value.split_once('#') {
        Some((path, id)) => (path, Some(id.to_owned())),
        None => (value, None),
    };
    if is_file(path) {
        return Ok((path.to_owned(), id));
    }
    let mut problems = Vec::new();
    for kind in Kind::ALL {
        match find(kind, value) {
            Ok(found) => return Ok((found.library.name(), Some(found.component.id))),
            Err(error) => problems.push(error.to_string()),
        }
    }
    Err(problems.swap_remove(0))
}

fn unusable(library: &str, message: String) -> Outcome {
    Outcome {
        library: library.to_owned(),
        component: library.rsplit('/').next().unwrap_or(library).to_owned(),
        test: "load".into(),
        ended: Ended::Badly(message),
        took: Duration::ZERO,
    }
}

fn check_library(library: &str, id: Option<&str>, only: &[String], outcomes: &mut Vec<Outcome>) -> Result<()> {
    let begin = Instant::now();
    let components = match library {
        "builtin" => Ok(Library::builtin()?.components().to_vec()),
        _ => child::components(library),
    };
    let components = match components {
        Ok(components) if id.is_none() || components.iter().any(|c| Some(c.id.as_str()) == id) => components,
        Ok(_) => {
            outcomes.push(unusable(library, format!("there is no component `{}` in it", id.unwrap_or_default())));
            return Ok(());
        }
        Err(message) => {
            outcomes.push(unusable(library, message));
            return Ok(());
        }
    };
    for component in components.iter().filter(|component| id.is_none_or(|id| component.id == id)) {
        let outcome = |test: &str, ended: Ended, took: Duration| Outcome {
            library: library.to_owned(),
            component: component.id.clone(),
            test: test.to_owned(),
            ended,
            took,
        };
        outcomes.push(outcome("load", Ended::Well(String::new()), begin.elapsed()));
        for test in
            tests(component.kind).iter().filter(|test| only.is_empty() || only.iter().any(|one| one == test.name))
        {
            let begin = Instant::now();
            let ended = child::run(None, &["plugin", "run-test", library, &component.id, test.name])?;
            outcomes.push(outcome(test.name, ended, begin.elapsed()));
        }
    }
    Ok(())
}
