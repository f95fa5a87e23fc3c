//! Tests of model recipes.

use serde_json::Value;

use super::{Stop, Test, ensure};
use crate::find::Found;
use crate::recipe::ModelRecipe;

pub const TESTS: &[Test] = &[
    Test { name: "recipe", what: "the recipe is one of format 1, with a base and maps of texts", run: recipe },
    Test { name: "same-recipe", what: "the recipe is the same at every call", run: same_recipe },
];

/// The keys of format 1; the model crate reads them (nodes/model/src/recipe.rs).
const KEYS: [&str; 6] = ["difflow_recipe", "description", "base", "keys", "values", "tensors"];

fn recipe(found: &Found) -> Result<(), Stop> {
    let json = ModelRecipe::of(found, "{}")?.json;
    ensure(json.get("difflow_recipe") == Some(&1.into()), || {
        "`difflow_recipe` is not 1, the version of the format".into()
    })?;
    ensure(json.get("base").is_some_and(Value::is_string), || "`base` is not the name of a class".into())?;
    for key in ["keys", "tensors"] {
        let map = json.get(key).map(|map| map.as_object().is_some_and(|map| map.values().all(Value::is_string)));
        ensure(map != Some(false), || format!("`{key}` does not map texts to texts"))?;
    }
    let unknown = json.keys().find(|key| !KEYS.contains(&key.as_str()));
    ensure(unknown.is_none(), || format!("unknown key `{}`", unknown.cloned().unwrap_or_default()))
}

fn same_recipe(found: &Found) -> Result<(), Stop> {
    let (first, second) = (ModelRecipe::of(found, "{}")?.json, ModelRecipe::of(found, "{}")?.json);
    ensure(first == second, || "two instances gave two recipes".into())
}
