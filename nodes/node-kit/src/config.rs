//! A node's configuration: the `env:` block of its entry in the dataflow file, read into one struct.
//!
//! The struct is the only place where a key, its type, its default and its description are defined; `schemars`
//! derives them from it, for parsing here, for `--help` and for docs/CONFIG.md. Keys are the field names in upper
//! case.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::problem::Kind;
use crate::{Node, Problem, Problems, RunKeys};

/// A node's configuration struct. Derive `Serialize`, `Deserialize`, `JsonSchema`, with
/// `#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]`, and give every field a doc comment: it is what users read.
/// Keys that several nodes have are a struct of their own, with `#[serde(flatten)]`.
pub trait Config: Serialize + DeserializeOwned + JsonSchema + Default {
    /// Returns which run the node works for.
    fn run(&self) -> &RunKeys;

    /// Returns every violation of the rules between keys and about files. The run's name is already checked.
    fn validate(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Returns whether the keys of `node` are part of the run's record: not where another node of the same kind has the same ones. Errors
    /// if dora does not give the dataflow file.
    fn recorded(_node: &Node) -> eyre::Result<bool> {
        Ok(true)
    }

    /// Returns what became of a key that the node once had: the end of the sentence "it is no longer a key of this
    /// node: …".
    fn gone(_key: &str) -> Option<&'static str> {
        None
    }

    /// Replaces hub ids by local paths, downloading what is missing. The node itself does it, once, before its work.
    /// Errors if something cannot be fetched.
    fn fetch(&mut self) -> Result<(), Problem> {
        Ok(())
    }
}

/// Returns the JSON schema of a configuration, with every type inlined.
pub fn schema<C: Config>() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<C>()
}

/// Returns the keys of a configuration with their schemas, in the order of the struct.
pub fn keys(schema: &Schema) -> Vec<(String, Value)> {
    let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    properties.into_iter().collect()
}

/// What was found in a node's `env:` block.
pub struct Checked<C> {
    /// The configuration, with defaults for the keys that cannot be read.
    pub config: C,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// The keys that cannot be read.
    pub unread: Vec<String>,
}

/// Reads a configuration. `own` is the node's own `env:` block, in which every key must be known; `lookup` finds the
/// value of a known key in that block or else in the dataflow's shared `env:`. Errors with every problem of every key
/// at once.
pub fn read<C: Config>(own: &[String], lookup: impl Fn(&str) -> Option<String>) -> Result<C, Problems> {
    let checked = check::<C>(own, lookup);
    Problems(checked.problems).into_result()?;
    Ok(checked.config)
}

/// As [`read`], but returns a configuration even if something is wrong. Rules that involve a key that cannot be read
/// are not checked.
pub fn check<C: Config>(own: &[String], lookup: impl Fn(&str) -> Option<String>) -> Checked<C> {
    let keys: BTreeMap<String, Value> = keys(&schema::<C>()).into_iter().collect();
    let mut problems: Vec<Problem> =
        own.iter().filter(|key| !keys.contains_key(*key)).map(|key| unknown::<C>(key, &keys)).collect();
    let (mut values, mut unread) = (Map::new(), Vec::new());
    for (key, schema) in &keys {
        let Some(text) = lookup(key) else { continue };
        match parse(&text, schema) {
            Ok(value) => _ = values.insert(key.clone(), value),
            Err((kind, allowed)) => {
                problems.push(Problem::new(key, text, allowed).of_kind(kind));
                unread.push(key.clone());
            }
        }
    }
    match serde_json::from_value::<C>(Value::Object(values)) {
        Ok(config) => {
            let names = |text: &str, key: &str| {
                text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == key)
            };
            let judged = |problem: &Problem| {
                !unread
                    .iter()
                    .any(|key| problem.key == *key || names(&problem.allowed, key) || names(&problem.found, key))
            };
            problems.extend(config.run().problem().into_iter().chain(config.validate()).filter(judged));
            Checked { config, problems, unread }
        }
        Err(e) => {
            problems.push(Problem::new("env", e, "every key of the type that --help shows").of_kind(Kind::Type));
            Checked { config: C::default(), problems, unread }
        }
    }
}

fn unknown<C: Config>(key: &str, keys: &BTreeMap<String, Value>) -> Problem {
    if let Some(went) = C::gone(key) {
        let allowed = format!("{key} is no longer a key of this node: {went}; remove the line");
        return Problem::new(key, "a key that went away", allowed).of_kind(Kind::UnknownKey);
    }
    let all: Vec<&str> = keys.keys().map(String::as_str).collect();
    let nearest = nearest(key, all.iter().copied()).map(|k| format!("did you mean {k}? ")).unwrap_or_default();
    Problem::new(key, "an unknown key", format!("{nearest}known keys: {}", all.join(", "))).of_kind(Kind::UnknownKey)
}

/// Returns the known name that is most similar to `found`.
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |name: &str| strsim::jaro_winkler(found, name);
    known.into_iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))
}

/// Returns a value of the schema's type from its text. Errors with what is allowed.
fn parse(text: &str, schema: &Value) -> Result<Value, (Kind, String)> {
    let wrong = |allowed: &str| (Kind::Type, format!("allowed: {allowed}"));
    let choices = choices(schema);
    if !choices.is_empty() {
        let found = choices.iter().any(|c| c == text);
        return if found { Ok(Value::from(text)) } else { Err(wrong(&choices.join(", "))) };
    }
    let optional = type_names(schema).contains(&"null");
    if optional && text.is_empty() {
        return Ok(Value::Null);
    }
    match type_names(schema).first().copied().unwrap_or("string") {
        "integer" => in_range(text.parse::<i64>().map(Value::from).map_err(|_| wrong("a whole number"))?, schema),
        "number" => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => in_range(Value::from(number), schema),
            _ => Err(wrong("a finite number")),
        },
        "boolean" => text.parse::<bool>().map(Value::from).map_err(|_| wrong("true or false")),
        _ => Ok(Value::from(text)),
    }
}

/// Returns whether a value, as it was written in a dataflow file, is read as `now`.
pub(crate) fn means(written: &Value, schema: &Value, now: &Value) -> bool {
    let text = written.as_str().map_or_else(|| written.to_string(), str::to_owned);
    parse(&text, schema).is_ok_and(|read| read == *now || read.as_f64().is_some_and(|read| now.as_f64() == Some(read)))
}

fn in_range(value: Value, schema: &Value) -> Result<Value, (Kind, String)> {
    let number = value.as_f64().unwrap_or(f64::NAN);
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let (low, high) = (bound("minimum"), bound("maximum"));
    let (above, below) = (bound("exclusiveMinimum"), bound("exclusiveMaximum"));
    let fits = low.is_none_or(|low| number >= low)
        && high.is_none_or(|high| number <= high)
        && above.is_none_or(|low| number > low)
        && below.is_none_or(|high| number < high);
    if fits { Ok(value) } else { Err((Kind::Range, format!("allowed: {}", range(schema)))) }
}

/// Returns the range of a numeric key in words.
pub fn range(schema: &Value) -> String {
    let words = [
        ("minimum", "at least"),
        ("exclusiveMinimum", "more than"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "less than"),
    ];
    let bounds = words.iter().filter_map(|(key, word)| {
        let value = schema.get(*key).and_then(Value::as_f64)?;
        Some(format!("{word} {value}"))
    });
    bounds.collect::<Vec<_>>().join(" and ")
}

/// Returns the names that an enum key may take; none for other keys.
pub fn choices(schema: &Value) -> Vec<String> {
    let plain = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    let described = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    plain.chain(described.filter_map(|one| one.get("const"))).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Returns the JSON types of a key.
pub fn type_names(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Draw {
        /// One way.
        #[default]
        Stratified,
        /// Another.
        Uniform,
    }

    /// A node's keys.
    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
    struct Example {
        #[serde(flatten)]
        run: RunKeys,
        /// How many.
        #[schemars(range(min = 1))]
        steps: u64,
        /// How fast.
        #[schemars(extend("exclusiveMinimum" = 0))]
        learning_rate: f64,
        /// How t is drawn.
        timesteps: Draw,
        /// Where.
        path: String,
        /// Or not.
        shift: bool,
        /// Perhaps.
        limit: Option<u64>,
    }

    impl Default for Example {
        fn default() -> Self {
            Self {
                run: RunKeys::default(),
                steps: 10,
                learning_rate: 1e-3,
                timesteps: Draw::Stratified,
                path: "a".into(),
                shift: true,
                limit: None,
            }
        }
    }

    impl Config for Example {
        fn run(&self) -> &RunKeys {
            &self.run
        }

        fn gone(key: &str) -> Option<&'static str> {
            (key == "TOKENIZER").then_some("it travels with the checkpoint")
        }

        fn validate(&self) -> Vec<Problem> {
            if self.path == "nowhere" {
                vec![Problem::new("PATH", &self.path, "a folder that exists")]
            } else {
                Vec::new()
            }
        }
    }

    fn from(pairs: &[(&str, &str)]) -> Result<Example, Problems> {
        let own: Vec<String> = pairs.iter().map(|(k, _)| (*k).to_owned()).collect();
        let map: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        read(&own, |key| map.get(key).cloned())
    }

    #[test]
    fn nothing_set_gives_the_defaults() {
        assert_eq!(from(&[]).unwrap(), Example::default());
    }

    #[test]
    fn every_type_is_read_from_its_text() {
        let pairs = [
            ("RUN", "mine"),
            ("STEPS", "7"),
            ("LEARNING_RATE", "2e-3"),
            ("TIMESTEPS", "uniform"),
            ("PATH", "7"),
            ("SHIFT", "false"),
            ("LIMIT", "3"),
        ];
        let wanted = Example {
            run: RunKeys { name: "mine".into(), ..RunKeys::default() },
            steps: 7,
            learning_rate: 2e-3,
            timesteps: Draw::Uniform,
            path: "7".into(),
            shift: false,
            limit: Some(3),
        };
        assert_eq!(from(&pairs).unwrap(), wanted);
    }

    /// A researcher who mends one key per start would give up.
    #[test]
    fn all_problems_are_reported_at_once() {
        let pairs =
            [("STEPS", "0"), ("LEARNING_RATE", "fast"), ("TIMESTEPS", "even"), ("SHIFT", "yes"), ("LEARNIN_RATE", "1")];
        let text = from(&pairs).unwrap_err().to_string();
        for part in [
            "STEPS: found `0`; allowed: at least 1",
            "LEARNING_RATE: found `fast`; allowed: a finite number",
            "TIMESTEPS: found `even`; allowed: stratified, uniform",
            "SHIFT: found `yes`; allowed: true or false",
            "LEARNIN_RATE: found `an unknown key`; did you mean LEARNING_RATE?",
        ] {
            assert!(text.contains(part), "{part} not in\n{text}");
        }
        assert!(from(&[("LEARNING_RATE", "0")]).unwrap_err().to_string().contains("more than 0"));
    }

    /// With STEPS unreadable, a rule about STEPS would be judged on its default; a rule about PATH stands by itself.
    #[test]
    fn a_rule_is_judged_beside_a_wrong_key_unless_it_is_about_that_key() {
        let text = from(&[("PATH", "nowhere"), ("STEPS", "many")]).unwrap_err().to_string();
        assert!(text.contains("a folder that exists") && text.contains("a whole number"), "{text}");
    }

    /// "Did you mean TIMESTEPS?" would send an owner of an older file looking for a spelling mistake.
    #[test]
    fn a_key_that_went_away_is_said_to_have_gone_where() {
        let text = from(&[("TOKENIZER", "a.json")]).unwrap_err().to_string();
        let wanted = "TOKENIZER is no longer a key of this node: it travels with the checkpoint; remove the line";
        assert!(text.contains(wanted) && !text.contains("did you mean"), "{text}");
    }

    #[test]
    fn rules_of_the_struct_are_asked() {
        assert!(from(&[("PATH", "nowhere")]).unwrap_err().to_string().contains("a folder that exists"));
    }

    /// A run called `../x` would write outside the folder of runs.
    #[test]
    fn the_name_of_the_run_is_checked_for_every_node() {
        assert!(from(&[("RUN", "../x")]).unwrap_err().to_string().contains("RUN: found `../x`; allowed: letters"));
    }

    /// The reader knows keys by the schema: a flattened struct must be in it, with its defaults and extensions.
    #[test]
    fn shared_keys_are_keys_like_any_other() {
        let keys = keys(&schema::<Example>());
        let run: Vec<(&str, &Value)> = keys.iter().take(2).map(|(key, schema)| (key.as_str(), schema)).collect();
        assert_eq!((run[0].0, run[1].0), ("RUN", "RUNS"));
        assert_eq!((&run[0].1["default"], &run[1].1["default"]), (&"default".into(), &"runs".into()));
        assert_eq!((run[0].1.get("x-may-change"), run[1].1.get("x-may-change")), (None, Some(&true.into())));
    }

    /// Values come from a file that a person wrote: 20,000 texts are read or refused, and what is read is within its range.
    #[test]
    fn no_value_makes_the_reader_panic() {
        let keys = ["STEPS", "LEARNING_RATE", "TIMESTEPS", "PATH", "SHIFT", "LIMIT", "STEP", ""];
        let pieces = [
            "0",
            "1",
            "-",
            "9999999999999999999",
            ".",
            "e",
            "nan",
            "inf",
            "true",
            "é",
            " ",
            "\0",
            "uniform",
            "null",
            "{",
        ];
        let mut state = 3u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let mut read = 0;
        for _ in 0..20_000 {
            let value: String = (0..below(4)).map(|_| pieces[below(pieces.len())]).collect();
            let Ok(example) = from(&[(keys[below(keys.len())], &value)]) else { continue };
            read += 1;
            assert!(
                example.steps >= 1 && example.learning_rate > 0.0 && example.learning_rate.is_finite(),
                "{example:?}"
            );
        }
        assert!(read > 100, "{read} values were read");
    }
}
