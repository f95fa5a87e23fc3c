//! The fields of requests.

use std::collections::BTreeMap;

use difflow_inference::Decoding;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ApiError;

/// `/v1/completions`, and `/v1/fim/completions`, which has a suffix.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Completion {
    /// The model's name, as `/v1/models` says it.
    pub model: Option<String>,
    /// One text or several, or their token ids. `[MASK]`, `[MASK:5]` and `[MASK:2..6]` in a text are gaps that are filled.
    pub prompt: Option<Prompts>,
    /// What stands behind the gap that is filled: infilling.
    pub suffix: Option<String>,
    /// Most new tokens of a text; with a suffix the most of the gap. Default: as many as the model ends by itself, else 128.
    pub max_tokens: Option<usize>,
    /// Texts for each prompt, 1 to 128.
    pub n: Option<usize>,
    /// Up to 16 texts that end a text; they are not part of it.
    pub stop: Option<Stops>,
    /// Log-probabilities of the tokens, with up to 20 of the most probable ones; exact where the model reads from left to right.
    pub logprobs: Option<Logprobs>,
    /// Gives the prompt back before the text.
    pub echo: Option<bool>,
    /// Answers with server-sent events as the text grows.
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// With `stream`: adds events `canvas` that say which positions were revealed with what.
    pub stream_canvas: Option<bool>,
    /// With a suffix: tokens of the gap, a number or bounds such as `2..6`. Default: searched, at most 16.
    pub gap: Option<Tokens>,
    /// With `false`, `[MASK]` in a prompt is text.
    pub gaps: Option<bool>,
    /// Who asks: requests of different users wait in different lines.
    pub user: Option<String>,
    /// Only 1, or the same as `n`.
    pub best_of: Option<usize>,
    /// Accepted, without effect; an answer's header `x-difflow-ignored` says so.
    pub presence_penalty: Option<f64>,
    /// Only 0.
    pub frequency_penalty: Option<f64>,
    /// Only an empty one.
    pub logit_bias: Option<Map<String, Value>>,
}

/// `/v1/chat/completions`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Chat {
    /// The model's name, as `/v1/models` says it.
    pub model: Option<String>,
    /// The conversation: `role` and `content` of each message.
    pub messages: Option<Vec<Message>>,
    /// Most new tokens.
    pub max_tokens: Option<usize>,
    /// The same.
    pub max_completion_tokens: Option<usize>,
    /// Answers, 1 to 128.
    pub n: Option<usize>,
    /// Up to 16 texts that end an answer; they are not part of it.
    pub stop: Option<Stops>,
    /// Answers with server-sent events as the text grows.
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// With `stream`: adds events `canvas` that say which positions were revealed with what.
    pub stream_canvas: Option<bool>,
    /// Who asks.
    pub user: Option<String>,
    /// Gives each token of an answer its log-probability; in a stream with the last piece.
    pub logprobs: Option<bool>,
    /// With `logprobs`: so many of the most probable tokens, 0 to 20.
    pub top_logprobs: Option<usize>,
    /// Accepted, without effect; an answer's header `x-difflow-ignored` says so.
    pub presence_penalty: Option<f64>,
    /// Only 0.
    pub frequency_penalty: Option<f64>,
    /// Only an empty one.
    pub logit_bias: Option<Map<String, Value>>,
    /// Only an empty one.
    pub tools: Option<Vec<Value>>,
    /// Only `none` or `auto`.
    pub tool_choice: Option<String>,
    /// Only `{"type": "text"}`.
    pub response_format: Option<Map<String, Value>>,
}

/// `/infill` of llama.cpp, as editors send it. Fields about its cache, its samplers and its timings are accepted without effect.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Infill {
    /// The text before the line of the cursor.
    pub input_prefix: String,
    /// The text behind the cursor.
    pub input_suffix: String,
    /// The line of the cursor up to it.
    pub prompt: String,
    /// Other files: their texts stand before the prefix.
    pub input_extra: Vec<Extra>,
    /// Most tokens of the gap; 0 answers at once with nothing.
    pub n_predict: Option<i64>,
    /// Up to 16 texts that end the gap.
    pub stop: Option<Stops>,
    /// The fields that are wanted; nested ones by `a/b`, in a flat answer.
    pub response_fields: Option<Vec<String>>,
    /// Only false.
    pub stream: Option<bool>,
    pub model: Option<String>,
    pub id_slot: Option<i64>,
    pub n_indent: Option<i64>,
    pub samplers: Option<Value>,
    pub cache_prompt: Option<bool>,
    pub t_max_prompt_ms: Option<i64>,
    pub t_max_predict_ms: Option<i64>,
    pub min_p: Option<f64>,
    pub lora: Option<Value>,
}

/// A file beside the one that is written.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Extra {
    pub filename: String,
    pub text: String,
}

/// `/tokenize`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tokenize {
    pub model: Option<String>,
    /// The text.
    pub prompt: Option<String>,
    /// The same, as llama.cpp calls it.
    pub content: Option<String>,
    /// Whether the tokenizer's own first token stands before it.
    pub add_special_tokens: Option<bool>,
    /// The same, as llama.cpp calls it.
    pub add_special: Option<bool>,
    pub parse_special: Option<bool>,
}

/// `/detokenize`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Detokenize {
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    Many(Vec<Vec<u32>>),
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Stops {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Tokens {
    Number(usize),
    Bounds(String),
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Logprobs {
    Best(usize),
    Wanted(bool),
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StreamOptions {
    /// A last chunk says how many tokens there were.
    pub include_usage: bool,
}

/// A message of a conversation.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
pub struct Message {
    pub role: String,
    pub content: Content,
    #[serde(default)]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A piece of a message; only text is read.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
pub struct Part {
    #[serde(rename = "type")]
    pub kind: String,
    pub text: String,
}

/// A request's own fields, and its decoding options by their names as keys.
#[derive(Debug)]
pub struct Fields<T> {
    pub own: T,
    pub decoding: Map<String, Value>,
    /// Key of all random numbers, where it is given.
    pub seed: Option<u64>,
}

/// Most steps of a text: they are counted even where nothing happens.
const STEPS: u64 = 4096;

/// Reads the fields of a request; null is none. Errors with the field that is unknown or wrong.
pub fn read<T: DeserializeOwned>(mut fields: Map<String, Value>) -> Result<Fields<T>, ApiError> {
    fields.retain(|_, value| !value.is_null());
    let keys = Decoding::keys();
    let seed =
        match fields.remove("seed") {
            None => None,
            Some(seed) => {
                let number = seed.as_u64().or_else(|| seed.as_i64().map(i64::cast_unsigned));
                Some(number.ok_or_else(|| {
                    ApiError::field("seed", format!("`seed` is {}; allowed: an integer", short(&seed)))
                })?)
            }
        };
    let mut decoding = Map::new();
    for (name, key) in &keys {
        let Some(value) = fields.remove(name) else { continue };
        if name == "steps" && value.as_u64().is_none_or(|steps| !(1..=STEPS).contains(&steps)) {
            return Err(ApiError::field(name, format!("`steps` is {}; allowed: 1 to {STEPS}", short(&value))));
        }
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        Decoding::default()
            .with(&alone)
            .map_err(|e| ApiError::field(name, format!("`{name}` is {}: {e}", short(&value))))?;
        decoding.insert(key.clone(), value);
    }
    match serde_json::from_value(Value::Object(fields.clone())) {
        Ok(own) => Ok(Fields { own, decoding, seed }),
        Err(e) => Err(blame::<T>(fields, &keys).unwrap_or_else(|| ApiError::wrong(e.to_string()))),
    }
}

/// The first field that is wrong by itself.
fn blame<T: DeserializeOwned>(fields: Map<String, Value>, options: &BTreeMap<String, String>) -> Option<ApiError> {
    fields.into_iter().find_map(|(name, value)| {
        let found = short(&value);
        let e = serde_json::from_value::<T>(Value::Object(Map::from_iter([(name.clone(), value)]))).err()?;
        let mut reason = e.to_string();
        if reason.starts_with(&format!("unknown field `{name}`")) {
            let options: Vec<String> = options.keys().map(|name| format!("`{name}`")).collect();
            reason = format!("{reason}, {}", options.join(", "));
        } else {
            reason = format!("`{name}` is {found}: {reason}");
        }
        Some(ApiError::field(&name, reason))
    })
}

/// A value, cut to what a message can hold.
pub fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The texts that end a text. Errors if there are too many, or one is empty.
pub fn stops(stops: Option<Stops>) -> Result<Vec<String>, ApiError> {
    let stops = match stops {
        None => Vec::new(),
        Some(Stops::One(stop)) => vec![stop],
        Some(Stops::Many(stops)) => stops,
    };
    if stops.len() > 16 || stops.iter().any(String::is_empty) {
        return Err(ApiError::field("stop", "allowed: up to 16 texts, none empty"));
    }
    Ok(stops)
}

/// Errors if a field asks for something that is not done; a neutral value asks for nothing.
pub fn neutral(name: &'static str, neutral: bool, allowed: &str) -> Result<(), ApiError> {
    if neutral { Ok(()) } else { Err(ApiError::field(name, format!("`{name}` is not supported; allowed: {allowed}"))) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completion(value: Value) -> Result<Fields<Completion>, ApiError> {
        let Value::Object(fields) = value else { panic!() };
        read(fields)
    }

    #[test]
    fn decoding_options_are_told_apart_and_null_is_none() {
        let fields = completion(json!({
            "prompt": "a", "temperature": 0, "steps": 9, "decoder": "threshold", "seed": -1, "stop": null, "n": 2
        }))
        .unwrap();
        assert_eq!(fields.own.n, Some(2));
        assert_eq!(fields.seed, Some(u64::MAX));
        let decoding = Value::Object(fields.decoding);
        assert_eq!(decoding, json!({"TEMPERATURE": 0, "DIFFUSION_STEPS": 9, "DECODER": "threshold"}));
        assert!(completion(json!({"prompt": [[1, 2], [3]]})).is_ok() && completion(json!({"prompt": ["a"]})).is_ok());
    }

    #[test]
    fn what_is_unknown_or_wrong_is_named() {
        for (name, value) in [
            ("promt", json!("a")),
            ("prompt", json!(3)),
            ("prompt", json!([1, "a"])),
            ("prompt", json!([-1])),
            ("prompt", json!([4_294_967_296_u64])),
            ("n", json!(-1)),
            ("n", json!(1.5)),
            ("max_tokens", json!("5")),
            ("seed", json!("a")),
            ("decoder", json!("best")),
            ("steps", json!(0)),
            ("steps", json!(4_294_967_295_u64)),
            ("temperature", json!("hot")),
            ("stream_options", json!({"usage": true})),
        ] {
            let error = completion(Value::Object(Map::from_iter([(name.to_owned(), value.clone())]))).unwrap_err();
            assert_eq!(
                (error.status.as_u16(), error.param.as_deref()),
                (400, Some(name)),
                "{value}: {}",
                error.message
            );
            assert!(error.message.contains(name), "{}", error.message);
        }
    }
}
