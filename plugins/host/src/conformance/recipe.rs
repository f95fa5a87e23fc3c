//! Tests of model recipes.

use super::{Stop, Test, ensure};
use crate::find::Found;
use crate::recipe::ModelRecipe;

pub const TESTS: &[Test] = &[
    Test {
        name: "recipe",
        what: "the recipe is a JSON object with `config` and, if any, a `weights` map of texts",
        run: recipe,
    },
    Test { name: "same-recipe", what: "the recipe is the same at every call", run: same_recipe },
];

fn recipe(found: &Found) -> Result<(), Stop> {
    let json = ModelRecipe::of(found, "{}")?.json;
    ensure(json.get("config").is_some_and(serde_json::Value::is_object), || "`config` is not an object".into())?;
    let weights =
        json.get("weights").map(|weights| weights.as_object().filter(|map| map.values().all(|v| v.is_string())));
    ensure(weights.is_none_or(|map| map.is_some()), || "`weights` does not map texts to texts".into())?;
    let unknown = json.keys().find(|key| !["config", "weights"].contains(&key.as_str()));
    ensure(unknown.is_none(), || format!("unknown key `{}`", unknown.cloned().unwrap_or_default()))
}

fn same_recipe(found: &Found) -> Result<(), Stop> {
    let (first, second) = (ModelRecipe::of(found, "{}")?.json, ModelRecipe::of(found, "{}")?.json);
    ensure(first == second, || "two instances gave two recipes".into())
}
