//! Which plug-ins a run uses: written into run.json and into every checkpoint, and compared when the run is resumed.

use std::collections::BTreeMap;

use difflow_plugin_host::{Kind, Record};
use serde_json::Value;

use crate::config::Config;

/// Plug-ins by key, as `node.KEY`; `node.TRANSFORMS.0` and so on for a list.
pub type Plugins = BTreeMap<String, Value>;

/// Those that the trainer's own keys name. One that cannot be found is left out here: opening it says so.
pub fn own(config: &Config, name: &str) -> Plugins {
    let Config { annealing_schedule, annealing_schedule_config, model_recipe, torch_model, .. } = config;
    let keys = [
        ("ANNEALING_SCHEDULE", Kind::AnnealingSchedule, annealing_schedule, annealing_schedule_config),
        ("MODEL_RECIPE", Kind::ModelRecipe, model_recipe, &config.model_recipe_config),
        ("TORCH_MODEL", Kind::TorchModel, torch_model, &config.torch_model_config),
    ];
    let named = keys.into_iter().filter(|(_, _, value, _)| !value.is_empty());
    let record = |(key, kind, value, options): (&str, _, &String, &String)| {
        let record = serde_json::to_value(Record::new(kind, value, options).ok()?).ok()?;
        Some((format!("{name}.{key}"), record))
    };
    named.filter_map(record).collect()
}

/// What is not the same binary as when the run began, in words.
pub fn changes(before: &Plugins, now: &Plugins) -> Vec<String> {
    let read = |value: &Value| serde_json::from_value::<Record>(value.clone()).ok();
    let change = |(key, now): (&String, &Value)| {
        // Up to November 2026 a key of the dataflow's `env:` stood without its node.
        let before = before.get(key).or_else(|| before.get(key.split_once('.')?.1))?;
        Some(format!("{key}: {}", read(now)?.difference(&read(before)?)?))
    };
    now.iter().filter_map(change).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_that_names_a_plugin_is_recorded_with_its_configuration() {
        let config = Config {
            annealing_schedule: "builtin:cosine".into(),
            annealing_schedule_config: r#"{"anneal_steps": 3}"#.into(),
            ..Config::default()
        };
        let plugins = own(&config, "trainer");
        assert_eq!(plugins.keys().collect::<Vec<_>>(), ["trainer.ANNEALING_SCHEDULE"]);
        let annealing = &plugins["trainer.ANNEALING_SCHEDULE"];
        assert_eq!((&annealing["path"], &annealing["config"]["anneal_steps"]), (&json!("builtin"), &json!(3)));
    }

    #[test]
    fn another_binary_is_a_change_and_another_place_is_none() {
        let record = |sha256: &str, path: &str| json!({"id": "a.b", "version": "1.0.0", "path": path, "sha256": sha256, "config": {}});
        let plugins = |key: &str, record| Plugins::from([(key.to_owned(), record)]);
        let key = "noiser.NOISE_SCHEDULE";
        let before = plugins(key, record("aaaaaaaaaaaaaaaa", "x.so"));
        assert!(changes(&before, &plugins(key, record("aaaaaaaaaaaaaaaa", "y.so"))).is_empty());
        let found = changes(&before, &plugins(key, record("bbbbbbbbbbbbbbbb", "x.so")));
        assert_eq!(found.len(), 1);
        for part in ["noiser.NOISE_SCHEDULE", "a.b", "aaaaaaaaaaaa", "bbbbbbbbbbbb"] {
            assert!(found[0].contains(part), "{part} not in {}", found[0]);
        }
        let shared = plugins("NOISE_SCHEDULE", record("cccccccccccccccc", "x.so"));
        assert_eq!(changes(&shared, &before).len(), 1);
    }
}
