//! Log-probabilities as OpenAI's completions have them.

use difflow_inference::{Expected, Written};
use serde_json::{Map, Value, json};

use crate::model::Loaded;
use crate::plan::Choice;

/// A text's tokens with their log-probabilities: those of the text as it was cut to `text`, and with `echo` those of its prompt before
/// them. `expected` are those of all tokens from the second on, where the model reads from left to right; else a token has the
/// probability with which it was revealed.
pub fn of(
    model: &Loaded,
    choice: &Choice,
    (written, text): (Option<&Written>, &str),
    (echo, best): (bool, usize),
    expected: Option<&[Expected]>,
) -> Value {
    let given = choice.prompt.tokens.len();
    let tokens = written.map_or(&choice.prompt.tokens[..], |written| &written.tokens[..]);
    let start = if !echo { given } else { usize::from(!choice.prompt.anchored) };
    let (mut names, mut logs, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut offset, mut length) = (0, 0);
    for (at, &id) in tokens.iter().enumerate().skip(start) {
        // Nothing of what stands behind a text that ends it.
        if at >= given && length > 0 && length >= text.len() && written.is_some_and(|written| !written.stopped) {
            break;
        }
        let name = model.token(id);
        length += if at >= given { name.len() } else { 0 };
        offsets.push(offset);
        offset += name.chars().count();
        names.push(Value::from(&*name));
        let one = at.checked_sub(1).and_then(|before| expected?.get(before));
        let revealed = || {
            let reveal = written?.history.iter().find(|reveal| reveal.position as usize == at)?;
            Some(f64::from(reveal.probability).ln())
        };
        let log = one.map(|one| one.log_probability).or_else(revealed);
        logs.push(finite(log));
        tops.push(one.map_or(Value::Null, |one| {
            let mut top = Map::new();
            for (id, log) in one.best.iter().take(best) {
                top.entry(&*model.token(*id)).or_insert_with(|| finite(Some(*log)));
            }
            top.into()
        }));
    }
    json!({"tokens": names, "token_logprobs": logs, "top_logprobs": tops, "text_offset": offsets})
}

/// The same as chats have them: one entry a token.
pub fn chat(completion: &Value) -> Value {
    let list = |name: &str| completion[name].as_array().map_or(&[][..], Vec::as_slice);
    if completion.is_null() {
        return Value::Null;
    }
    let one = |token: &str, log: &Value| json!({"token": token, "logprob": log, "bytes": token.as_bytes()});
    let content = list("tokens").iter().zip(list("token_logprobs")).zip(list("top_logprobs"));
    let content = content.map(|((token, log), top)| {
        let mut entry = one(token.as_str().unwrap_or_default(), log);
        let mut best: Vec<(&String, &Value)> = top.as_object().into_iter().flatten().collect();
        best.sort_by(|a, b| b.1.as_f64().unwrap_or(f64::MIN).total_cmp(&a.1.as_f64().unwrap_or(f64::MIN)));
        entry["top_logprobs"] = best.into_iter().map(|(token, log)| one(token, log)).collect();
        entry
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// JSON has no infinity.
fn finite(log: Option<f64>) -> Value {
    log.map_or(Value::Null, |log| json!(log.max(-9999.0)))
}
