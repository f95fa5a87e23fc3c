//! docs/CONFIG.md: every key of every node, from the nodes' own structs.

use difflow_node_kit::config::{choices, keys, range, type_names};
use difflow_node_kit::record::{MAY_CHANGE, marked};
use serde_json::Value;

use crate::dataflow::PROGRAMS;

const HEAD: &str = "\
# Configuration

<!-- Made by `difflow docs --write .` from the nodes' config structs; a test compares. -->

An experiment is the `env:` of a dataflow file. Keys that several nodes have belong into the dataflow's `env:`, the others into their node's, or all into the
dataflow's, as in the files of `data/experiments`: there `sampler.DEVICE: cpu` is the key of one node. `difflow run FILE --set STEPS=100 --set sampler.DEVICE=cpu`
changes keys for one run. A node's own value goes before the dataflow's. A variable of the shell changes nothing, unless the file names it (`$NAME`);
`dora run --env KEY=VALUE` sets a key of the dataflow's `env:`. What one node decides and others need (the noise schedule, the tokenizer, the documents) travels with
the data and the checkpoints: it is a key of that node alone. A key that no node knows is an error with the nearest known name; so is a
value of the wrong type or outside its range (`difflow validate`, and the nodes themselves with exit code 78). dora fills in `$NAME`, and writes numbers
anew, in quotes or not: `RUN: 1.10` is the run `1.1`. Paths are relative to the dataflow file. `bin/difflow-trainer --help` and the others print
the same; `difflow schema` makes an editor know it.

`run.json` of a run has every key of every node, defaults included. When the run is resumed each node compares its own: a key that is marked with † may be another
then, any other is refused.
";

/// The page.
pub fn page() -> String {
    let mut text = String::from(HEAD);
    for program in &PROGRAMS {
        text.push_str(&format!("\n## {}\n\n{}: {}.\n\n", program.ports.program, program.ports.program, program.what));
        text.push_str("| key | type | default | |\n|---|---|---|---|\n");
        for (key, schema) in keys(&(program.schema)()) {
            let default = schema.get("default").map(shown).unwrap_or_default();
            let free = if marked(&schema, MAY_CHANGE) { " †" } else { "" };
            let (kind, description) = (kind(&schema), description(&schema));
            text.push_str(&format!("| `{key}`{free} | {kind} | {default} | {description} |\n"));
        }
    }
    text
}

fn kind(schema: &Value) -> String {
    let choices = choices(schema);
    if !choices.is_empty() {
        return choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    }
    let names = type_names(schema);
    let word = match names.first().copied() {
        Some("integer") => "whole number",
        Some("number") => "number",
        Some("boolean") => "`true`, `false`",
        _ => "text",
    };
    let empty = if names.contains(&"null") { ", or empty" } else { "" };
    let range = range(schema);
    let range = if range.is_empty() { range } else { format!(", {range}") };
    format!("{word}{range}{empty}")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::String(text) if text.is_empty() => "empty".into(),
        Value::String(text) => format!("`{}`", text.replace('|', "\\|")),
        value => format!("`{value}`"),
    }
}

/// What the key does; for a list of choices, each with its own words.
fn description(schema: &Value) -> String {
    let text = |schema: &Value| schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut words = text(schema);
    for one in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        if let Some(name) = one.get("const").and_then(Value::as_str) {
            words.push_str(&format!("<br>`{name}`: {}", text(one)));
        }
    }
    words.replace('\n', " ").replace('|', "\\|")
}
