//! How a run was made, for a reader who was not there: when, where, from which sources, and with which dataflow file.

use std::fs;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// Keys whose values stand in no report.
const SECRET: [&str; 1] = ["PAGE_TOKEN"];

/// Where a run comes from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Origin {
    /// When the monitor started.
    pub started: DateTime<Utc>,
    /// Name and value, for people: machine, versions.
    pub facts: Vec<(&'static str, String)>,
    /// The dataflow file as YAML, without secrets.
    pub dataflow: String,
}

impl Origin {
    /// Of this process and this parsed dataflow file.
    pub fn of(dataflow: &Value) -> Self {
        let facts = [
            ("difflow", Some(env!("CARGO_PKG_VERSION").to_owned())),
            ("processor", processor()),
            ("memory", memory()),
            ("system", read("/proc/sys/kernel/osrelease").map(|release| format!("Linux {}", release.trim()))),
        ];
        Self {
            started: Utc::now(),
            facts: facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            dataflow: without_secrets(dataflow),
        }
    }
}

/// The dataflow as YAML.
fn without_secrets(dataflow: &Value) -> String {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, value| !SECRET.contains(&key.as_str()) && !value.is_null());
                map.values_mut().for_each(strip);
            }
            Value::Array(all) => all.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut shown = dataflow.clone();
    strip(&mut shown);
    // JSON is YAML too, should a value be one that the writer does not know.
    serde_saphyr::to_string(&shown).unwrap_or_else(|_| format!("{shown:#}"))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn processor() -> Option<String> {
    let cores = std::thread::available_parallelism().ok()?;
    let info = read("/proc/cpuinfo")?;
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "))?.1;
    Some(format!("{}, {cores} cores", name.trim()))
}

fn memory() -> Option<String> {
    let info = read("/proc/meminfo")?;
    let kib: f64 =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse().ok())?;
    Some(format!("{:.1} GB", kib * 1024.0 / 1e9))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_dataflow_is_yaml_that_says_the_same_without_the_token() {
        let dataflow = json!({"env": {"SEED": 1, "A": "1.10", "B": "yes: no"}, "nodes": [
            {"id": "monitor", "path": "bin/x", "env": {"PAGE_TOKEN": "hush-hush-hush-hush", "PAGE_PORT": 0}, "args": null},
        ]});
        let text = Origin::of(&dataflow).dataflow;
        assert!(!text.contains("hush") && !text.contains("PAGE_TOKEN"), "{text}");
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        let wanted = json!({"env": {"SEED": 1, "A": "1.10", "B": "yes: no"}, "nodes": [
            {"id": "monitor", "path": "bin/x", "env": {"PAGE_PORT": 0}},
        ]});
        assert_eq!(read, wanted);
    }

    #[test]
    fn the_machine_is_named() {
        let facts = Origin::of(&json!({})).facts;
        let names: Vec<&str> = facts.iter().map(|(name, _)| *name).collect();
        for name in ["difflow", "processor", "memory", "system"] {
            assert!(names.contains(&name), "{name} not in {names:?}");
        }
    }
}
