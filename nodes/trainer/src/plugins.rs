//! Which plug-ins a run uses: written into run.json and into every checkpoint, and compared when the run is resumed.

use std::collections::BTreeMap;

use difflow_plugin_host::{Kind, PluginError, Record, Transforms};
use serde_json::Value;

use crate::config::Config;

/// Plug-ins by key, as `node.KEY`; `node.TRANSFORMS.0` and so on for a list.
pub type Plugins = BTreeMap<String, Record>;

/// The keys that name one plug-in; each has its `…_CONFIG` beside it.
const KEYS: [(&str, Kind); 4] = [
    ("NOISE_SCHEDULE", Kind::NoiseSchedule),
    ("ANNEALING_SCHEDULE", Kind::AnnealingSchedule),
    ("MODEL_RECIPE", Kind::ModelRecipe),
    ("TORCH_MODEL", Kind::TorchModel),
];

/// The plug-ins that the dataflow names. One that cannot be found is left out here: the node that needs it says so and ends.
pub fn of_dataflow(dataflow: &Value, config: &Config, id: &str) -> Plugins {
    let mut plugins = Plugins::new();
    add(&mut plugins, "", dataflow.get("env"));
    for node in dataflow.get("nodes").and_then(Value::as_array).into_iter().flatten() {
        let id = node.get("id").and_then(Value::as_str).unwrap_or_default();
        add(&mut plugins, &format!("{id}."), node.get("env"));
    }
    // The trainer's own, also where the key is not set.
    let own = Record::new(Kind::AnnealingSchedule, &config.annealing_schedule, &config.annealing_schedule_config);
    plugins.extend(own.ok().map(|record| (format!("{id}.ANNEALING_SCHEDULE"), record)));
    plugins
}

fn add(plugins: &mut Plugins, prefix: &str, env: Option<&Value>) {
    let text = |key: &str| env.and_then(|env| env.get(key)).and_then(Value::as_str);
    for (key, kind) in KEYS {
        let Some(value) = text(key) else { continue };
        let record = Record::new(kind, value, text(&format!("{key}_CONFIG")).unwrap_or("{}"));
        plugins.extend(record.ok().map(|record| (format!("{prefix}{key}"), record)));
    }
    let transforms: Result<_, PluginError> = text("TRANSFORMS").map_or(Ok(Vec::new()), Transforms::records);
    for (number, record) in transforms.unwrap_or_default().into_iter().enumerate() {
        plugins.insert(format!("{prefix}TRANSFORMS.{number}"), record);
    }
}

/// What is not the same binary as when the run began, in words.
pub fn changes(before: &Plugins, now: &Plugins) -> Vec<String> {
    let both = now.iter().filter_map(|(key, record)| Some((key, record, before.get(key)?)));
    both.filter_map(|(key, now, before)| Some(format!("{key}: {}", now.difference(before)?))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_that_names_a_plugin_is_recorded_with_its_configuration() {
        let dataflow = json!({
            "env": {"SEED": 1},
            "nodes": [
                {"id": "noiser", "env": {
                    "NOISE_SCHEDULE": "builtin:polynomial",
                    "NOISE_SCHEDULE_CONFIG": "{\"power\": 3}",
                    "TRANSFORMS": "[\"span-mask\"]",
                }},
                {"id": "trainer"},
            ],
        });
        let plugins = of_dataflow(&dataflow, &Config::default(), "trainer");
        let keys: Vec<&String> = plugins.keys().collect();
        assert_eq!(keys, ["noiser.NOISE_SCHEDULE", "noiser.TRANSFORMS.0", "trainer.ANNEALING_SCHEDULE"]);
        let noise = &plugins["noiser.NOISE_SCHEDULE"];
        assert_eq!((noise.id.as_str(), noise.path.as_str()), ("difflow.noise.polynomial", "builtin"));
        assert_eq!(noise.config["power"], 3);
    }

    #[test]
    fn another_binary_is_a_change_and_another_place_is_none() {
        let record = |sha256: &str, path: &str| Record {
            id: "a.b".into(),
            version: "1.0.0".into(),
            path: path.into(),
            sha256: Some(sha256.into()),
            config: json!({}),
        };
        let plugins = |record| Plugins::from([("noiser.NOISE_SCHEDULE".to_owned(), record)]);
        let before = plugins(record("aaaaaaaaaaaaaaaa", "x.so"));
        assert!(changes(&before, &plugins(record("aaaaaaaaaaaaaaaa", "y.so"))).is_empty());
        let found = changes(&before, &plugins(record("bbbbbbbbbbbbbbbb", "x.so")));
        assert_eq!(found.len(), 1);
        for part in ["noiser.NOISE_SCHEDULE", "a.b", "aaaaaaaaaaaa", "bbbbbbbbbbbb"] {
            assert!(found[0].contains(part), "{part} not in {}", found[0]);
        }
    }
}
