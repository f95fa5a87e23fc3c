//! `/infill`, as llama.vim and llama.vscode ask for it.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::{Fields, Infill, neutral, stops};
use crate::model::Loaded;
use crate::plan::{Delivery, Plan, around, how};
use crate::running::{Finished, Text};
use crate::writer::Finish;

/// What is asked: a text, or nothing but whether somebody is there.
pub enum Asked {
    Text(Box<Plan>),
    Nothing,
}

/// Errors with the field that is wrong.
pub fn plan(model: Arc<Loaded>, fields: Fields<Infill>) -> Result<Asked, ApiError> {
    let Fields { own, mut decoding, seed } = fields;
    neutral("stream", !own.stream.unwrap_or(false), "false")?;
    if own.n_predict == Some(0) {
        return Ok(Asked::Nothing);
    }
    // llama.cpp's way to say that all tokens are drawn from.
    decoding.retain(|key, value| key != "TOP_K" || value.as_i64().is_none_or(|k| k > 0));
    let most = own.n_predict.and_then(|most| usize::try_from(most).ok());
    let extra: String = own.input_extra.iter().map(|extra| format!("{}\n", extra.text)).collect();
    let prefix = [extra.as_str(), &own.input_prefix, &own.prompt].concat();
    let choice = around(&model, &prefix, &own.input_suffix, None, most)?;
    let plan = Plan {
        decoding: how(&model, &decoding, seed)?,
        stops: stops(own.stop)?,
        delivery: Delivery::default(),
        echo: false,
        logprobs: None,
        ignored: Vec::new(),
        user: None,
        prompt_tokens: 0,
        choices: Vec::new(),
        model: model.clone(),
    };
    plan.with(&[choice], 1).map(|plan| Asked::Text(Box::new(plan)))
}

/// The answer, with the fields that are wanted.
pub fn answer(finished: Option<Finished>, wanted: Option<&[String]>, milliseconds: f64) -> Value {
    let mut whole = Map::new();
    if let Some(Finished { mut texts, usage }) = finished
        && let Some(Text { text, finish, tokens, written, .. }) = texts.pop()
    {
        let (kind, word) = match &finish {
            Finish::End => ("eos", ""),
            Finish::Stop(stop) => ("word", stop.as_str()),
            Finish::Length => ("limit", ""),
        };
        let rate = if milliseconds > 0.0 { tokens as f64 * 1000.0 / milliseconds } else { 0.0 };
        let timings = json!({
            "prompt_n": usage.prompt, "prompt_ms": 0.0, "prompt_per_second": 0.0, "predicted_n": tokens,
            "predicted_ms": milliseconds, "predicted_per_second": rate
        });
        let ids = written.map(|written| written.filling()).unwrap_or_default();
        for (name, value) in [
            ("content", text.into()),
            ("tokens", json!(ids)),
            ("stop", true.into()),
            ("stop_type", kind.into()),
            ("stopping_word", word.into()),
            ("tokens_cached", 0.into()),
            ("tokens_evaluated", usage.prompt.into()),
            ("tokens_predicted", tokens.into()),
            ("truncated", false.into()),
            ("timings", timings),
        ] {
            whole.insert(name.to_owned(), value);
        }
    }
    let Some(wanted) = wanted else { return whole.into() };
    let pick = |name: &String| {
        let all = Value::Object(whole.clone());
        let value = name.split('/').try_fold(&all, |value, part| value.get(part))?.clone();
        Some((name.clone(), value))
    };
    Value::Object(wanted.iter().filter_map(pick).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame::Usage;

    /// llama.vim reads flat keys, and asks for nothing when it starts.
    #[test]
    fn the_answer_has_the_fields_that_are_asked_for_and_no_others() {
        let finished = || {
            let (finish, logprobs) = (Finish::Stop("\n".into()), Value::Null);
            let text = Text { text: "ab".into(), finish, tokens: 2, logprobs, written: None };
            Finished { texts: vec![text], usage: Usage { prompt: 7, completion: 2, forwards: 3 } }
        };
        let wanted = ["content", "timings/prompt_n", "timings/predicted_n", "nothing"].map(str::to_owned);
        let found = answer(Some(finished()), Some(&wanted), 10.0);
        assert_eq!(found, json!({"content": "ab", "timings/prompt_n": 7, "timings/predicted_n": 2}));
        assert_eq!(answer(Some(finished()), None, 10.0)["stopping_word"], "\n");
        assert_eq!(answer(None, Some(&[String::new()]), 0.0), json!({}));
    }
}
