//! Values of a node's keys: read within their range, or refused. Lines of `KEY=VALUE`; a key that is unknown is the node's own.
#![no_main]

use std::collections::BTreeMap;

use difflow_node_kit::{Problem, config};
use libfuzzer_sys::fuzz_target;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Draw {
    /// One way.
    Stratified,
    /// Another.
    Uniform,
}

/// One key of each type that nodes have.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
struct Example {
    /// How many.
    #[schemars(range(min = 1))]
    steps: u64,
    /// How fast.
    #[schemars(extend("exclusiveMinimum" = 0))]
    rate: f64,
    /// Which way.
    draw: Draw,
    /// Where.
    path: String,
    /// Or not.
    shift: bool,
    /// Perhaps.
    limit: Option<u64>,
}

impl Default for Example {
    fn default() -> Self {
        Self { steps: 1, rate: 1.0, draw: Draw::Uniform, path: String::new(), shift: true, limit: None }
    }
}

impl config::Config for Example {
    fn validate(&self) -> Vec<Problem> {
        Vec::new()
    }
}

fuzz_target!(|text: &str| {
    let pairs: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let own: Vec<String> = pairs.keys().map(|key| (*key).to_owned()).collect();
    if let Ok(read) = config::read::<Example>(&own, |key| pairs.get(key).map(|value| (*value).to_owned())) {
        assert!(read.steps >= 1 && read.rate > 0.0 && read.rate.is_finite(), "{read:?}");
    }
});
