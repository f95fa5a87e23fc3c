//! `difflow plugin list`.

use difflow_plugin_host::{Library, candidates};
use eyre::Result;
use serde_json::{Value, json};

use crate::plugin::child;
use crate::plugin::table::table;

/// Lists the built-in components and those of the folders that are searched.
pub fn run(as_json: bool) -> Result<u8> {
    let mut found: Vec<(String, Result<_, String>)> =
        vec![("builtin".into(), Ok(Library::builtin()?.components().to_vec()))];
    for path in candidates() {
        let name = path.display().to_string();
        let components = child::components(&name);
        found.push((name, components));
    }
    if as_json {
        let list: Vec<Value> = found
            .iter()
            .map(|(library, components)| match components {
                Ok(components) => {
                    json!({"library": library, "components": components.iter().map(child::to_json).collect::<Vec<_>>()})
                }
                Err(error) => json!({"library": library, "error": error}),
            })
            .collect();
        println!("{:#}", Value::from(list));
        return Ok(0);
    }
    let mut rows = Vec::new();
    for (library, components) in &found {
        match components {
            Ok(components) => rows.extend(components.iter().map(|c| {
                let id = match c.id.strip_prefix(c.kind.builtin_prefix()) {
                    Some(name) if library == "builtin" => format!("builtin:{name}"),
                    _ => c.id.clone(),
                };
                vec![id, c.kind.name().to_owned(), c.version.clone(), library.clone(), c.description.clone()]
            })),
            Err(error) => eprintln!("warning: {error}"),
        }
    }
    println!("{}", table(&["component", "kind", "version", "library", "description"], &rows));
    Ok(0)
}
