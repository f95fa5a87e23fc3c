//! `difflow schema`: a JSON schema of dataflow files, for editors. dora's own schema rejects valid inputs and knows
//! no node's keys.

use difflow_node_kit::config::{choices, keys, type_names};
use difflow_node_kit::dataflow::known_keys;
use difflow_node_kit::record::{MAY_CHANGE, marked};
use serde_json::{Map, Value, json};

use crate::dataflow::PROGRAMS;
use crate::dataflow::programs::Program;

pub const EXAMPLES: &str = "\
Examples:
  difflow schema > dataflow.schema.json
  then, as the first line of a dataflow file:  # yaml-language-server: $schema=dataflow.schema.json

VS Code with the YAML extension then completes, explains and checks every key. docs/dataflow.schema.json is this schema, and
.vscode/settings.json names it for the dataflow files and the modules of this checkout.";

/// difflow's own modules: with these, too, every key of the `env:` is known.
const MODULES: &str = "(^|/)(adapt|train)\\.module\\.yml$";

/// Prints the schema.
pub fn run() {
    println!("{:#}", schema());
}

/// The schema of a dataflow file.
pub fn schema() -> Value {
    let known = known_keys();
    let mut shared = Map::new();
    for program in &PROGRAMS {
        for (key, schema) in keys(&(program.schema)()) {
            shared.entry(key).or_insert_with(|| editor(&schema));
        }
    }
    let names: Vec<&String> = shared.keys().collect();
    let own = format!("^[A-Za-z0-9_.-]+\\.({})$", names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join("|"));
    let known_keys = json!({"anyOf": [{"enum": names}, {"pattern": own}]});
    let programs: Vec<&str> = PROGRAMS.iter().map(|program| program.ports.program).collect();
    let ours = json!({
        "anyOf": [
            {"required": ["path"], "properties": {"path": {"pattern": format!("(^|/)({})$", programs.join("|"))}}},
            {"required": ["module"], "properties": {"module": {"pattern": MODULES}}},
        ],
    });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A dataflow of difflow, or a module of one",
        "type": "object",
        "required": ["nodes"],
        "additionalProperties": false,
        // Another program may want any key.
        "if": {"properties": {"nodes": {"items": ours}}},
        "then": {"properties": {"env": {"propertyNames": known_keys}}},
        "properties": with(&known.dataflow, [
            ("module", module()),
            ("nodes", json!({"type": "array", "items": node(&known.node)})),
            ("env", json!({"type": "object", "description": "Keys of all nodes; NODE.KEY is one node's.", "properties": shared})),
            ("exit_when_nodes_finish", json!({"type": "boolean", "description": "true: the timer does not keep the dataflow alive."})),
        ]),
    })
}

/// Every known key, those named with their schemas.
fn with<const N: usize>(known: &[String], named: [(&str, Value); N]) -> Value {
    let mut properties: Map<String, Value> = known.iter().map(|key| (key.clone(), json!({}))).collect();
    properties.extend(named.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Value::Object(properties)
}

fn node(known: &[String]) -> Value {
    let seconds =
        json!({"type": "number", "minimum": 0, "description": "Seconds the node may take to end; dora kills it then."});
    json!({
        "type": "object",
        "required": ["id"],
        "additionalProperties": false,
        "properties": with(known, [
            ("id", json!({"type": "string", "description": "Name of the node; inputs of others are ID/OUTPUT."})),
            ("path", json!({"type": "string", "description": "The program, relative to this file."})),
            ("module", json!({"type": "string", "description": "A file whose nodes stand in the place of this one, relative to this file."})),
            ("inputs", json!({"type": "object", "additionalProperties": input()})),
            ("outputs", json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true})),
            ("env", json!({"type": "object"})),
            ("finish_grace_secs", seconds),
        ]),
        "allOf": PROGRAMS.iter().map(rule).collect::<Vec<_>>(),
    })
}

/// The head of a module file.
fn module() -> Value {
    let names =
        |what: &str| json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true, "description": what});
    json!({
        "type": "object",
        "description": "Only in a module: its name and what it is connected by.",
        "required": ["name"],
        "additionalProperties": false,
        "properties": {
            "name": {"type": "string"},
            "inputs": names("Inputs that must be given; _mod/INPUT inside."),
            "inputs_optional": names("Inputs that may be given."),
            "outputs": names("Outputs of nodes of the module that others may read."),
        },
    })
}

fn input() -> Value {
    json!({
        "anyOf": [
            {"type": "string", "description": "NODE/OUTPUT, or dora/timer/millis/NUMBER."},
            {
                "type": "object",
                "required": ["source"],
                "additionalProperties": false,
                "properties": {
                    "source": {"type": "string", "description": "NODE/OUTPUT."},
                    "queue_size": {"type": "integer", "minimum": 1, "description": "Messages that may wait; the oldest is dropped when one more comes."},
                    "queue_policy": {"enum": ["drop_oldest", "backpressure"], "description": "backpressure: dora delivers every message, through its daemon."},
                    "input_timeout": {"type": "number"},
                },
            },
        ],
    })
}

/// What holds for the nodes of one program.
fn rule(program: &Program) -> Value {
    let env: Map<String, Value> =
        keys(&(program.schema)()).into_iter().map(|(key, schema)| (key, editor(&schema))).collect();
    let inputs: Map<String, Value> = program
        .ports
        .inputs
        .iter()
        .map(|port| {
            let what = format!("Messages {}.", port.message);
            (port.name.to_owned(), json!({"description": what}))
        })
        .collect();
    let needed: Vec<&str> = program.ports.inputs.iter().filter(|port| port.needed).map(|port| port.name).collect();
    let outputs: Vec<&str> = program.ports.outputs.iter().map(|port| port.name).collect();
    let items = if outputs.is_empty() { json!(false) } else { json!({"enum": outputs}) };
    json!({
        "if": {"required": ["path"], "properties": {"path": {"pattern": format!("(^|/){}$", program.ports.program)}}},
        "then": {
            "required": ["inputs"],
            "properties": {
                "env": {"properties": env, "additionalProperties": false, "description": format!("Keys of {}: {}.", program.ports.program, program.what)},
                "inputs": {"properties": inputs, "propertyNames": {"enum": inputs.keys().collect::<Vec<_>>()}, "required": needed},
                "outputs": {"items": items},
            },
        },
    })
}

/// A key as YAML writes it: a text may look like a number, and an optional key may be empty.
fn editor(schema: &Value) -> Value {
    let mut out = Map::new();
    for name in ["description", "default", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
        if let Some(value) = schema.get(name) {
            out.insert(name.into(), value.clone());
        }
    }
    if let (true, Some(Value::String(description))) = (marked(schema, MAY_CHANGE), out.get_mut("description")) {
        description.push_str(" (It may change when the run is resumed.)");
    }
    let choices = choices(schema);
    if choices.is_empty() {
        let names = type_names(schema);
        let kind = names.first().copied().unwrap_or("string");
        let mut types = vec![kind];
        if kind == "string" {
            types.extend(["number", "boolean"]);
        } else if names.contains(&"null") {
            types.push("string");
        }
        out.insert("type".into(), json!(types));
        if kind != "string" && names.contains(&"null") {
            out.insert("maxLength".into(), json!(0));
        }
    } else {
        out.insert("enum".into(), json!(choices));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_its_keys_and_ports() {
        let schema = schema();
        let rules = schema["properties"]["nodes"]["items"]["allOf"].as_array().map_or(0, Vec::len);
        assert_eq!(rules, PROGRAMS.len());
        let trainer = &schema["properties"]["nodes"]["items"]["allOf"][3]["then"]["properties"];
        assert_eq!(trainer["env"]["properties"]["STEPS"]["type"], json!(["integer"]));
        assert_eq!(trainer["env"]["properties"]["DECAY"]["enum"][0], "constant");
        assert_eq!(trainer["inputs"]["required"], json!(["noised"]));
        assert!(trainer["env"]["properties"]["STEPS"]["description"].as_str().is_some_and(|text| !text.is_empty()));
    }
}
