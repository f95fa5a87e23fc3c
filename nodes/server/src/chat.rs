//! Conversations, asked as the model was taught.

use std::sync::Arc;

use difflow_inference::DEFAULT_LENGTH;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::{Chat, Content, Fields, Message, neutral, stops};
use crate::model::Loaded;
use crate::plan::{BEST, Delivery, Plan, continued, count, how};

/// Errors with the field that is wrong, or if the model has no chat template.
pub fn plan(model: Arc<Loaded>, fields: Fields<Chat>) -> Result<Plan, ApiError> {
    let Fields { own, decoding, seed } = fields;
    let n = count(own.n)?;
    let logprobs = own.logprobs.unwrap_or(false).then(|| own.top_logprobs.unwrap_or(0));
    neutral("top_logprobs", logprobs.unwrap_or(0) <= BEST, "0 to 20")?;
    neutral("top_logprobs", logprobs.is_some() || own.top_logprobs.unwrap_or(0) == 0, "0 without logprobs")?;
    neutral("frequency_penalty", own.frequency_penalty.unwrap_or(0.0) == 0.0, "0")?;
    neutral("logit_bias", own.logit_bias.as_ref().is_none_or(serde_json::Map::is_empty), "{}")?;
    neutral("tools", own.tools.as_ref().is_none_or(Vec::is_empty), "[]")?;
    let choices = ["none", "auto"];
    neutral("tool_choice", own.tool_choice.as_deref().is_none_or(|one| choices.contains(&one)), "none or auto")?;
    let text = |format: &serde_json::Map<String, Value>| format.get("type") == Some(&"text".into());
    neutral("response_format", own.response_format.as_ref().is_none_or(text), "{\"type\": \"text\"}")?;
    let messages = own.messages.filter(|messages| !messages.is_empty());
    let messages =
        messages.ok_or_else(|| ApiError::field("messages", "`messages` is missing: a list with role and content"))?;
    let chat = model.chat.as_ref().ok_or_else(|| {
        ApiError::field("messages", "this model has no chat template: it continues texts, see /v1/completions")
    })?;
    let messages: Vec<Value> = messages.iter().map(message).collect::<Result<_, _>>()?;
    let wrong = |message: String| ApiError::field("messages", message);
    let tokens = chat.question(&messages).map_err(|e| wrong(e.to_string()))?;
    if tokens.is_empty() {
        return Err(wrong("the chat template makes an empty text of it".into()));
    }
    let wanted = own.max_completion_tokens.or(own.max_tokens);
    let total = tokens.len().saturating_add(wanted.unwrap_or(1));
    if total > model.longest {
        return Err(ApiError { param: Some("messages".into()), ..ApiError::too_long(total, model.longest) });
    }
    let room = model.session.room_behind(tokens.len()).unwrap_or(DEFAULT_LENGTH).min(model.longest - tokens.len());
    let choice = continued(&model, tokens, String::new(), true, wanted.unwrap_or(room))?;
    let stream = own.stream.unwrap_or(false);
    let canvas = own.stream_canvas.unwrap_or(false);
    neutral("stream_canvas", stream || !canvas, "false without stream")?;
    let plan = Plan {
        decoding: how(&model, &decoding, seed)?,
        stops: stops(own.stop)?,
        delivery: Delivery { stream, canvas, usage: own.stream_options.unwrap_or_default().include_usage },
        echo: false,
        logprobs,
        ignored: if own.presence_penalty.unwrap_or(0.0) == 0.0 { vec![] } else { vec!["presence_penalty"] },
        user: own.user,
        prompt_tokens: 0,
        choices: Vec::new(),
        model: model.clone(),
    };
    plan.with(&[choice], n)
}

/// As templates read it.
fn message(message: &Message) -> Result<Value, ApiError> {
    let content = match &message.content {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            if let Some(part) = parts.iter().find(|part| part.kind != "text") {
                return Err(ApiError::field("messages", format!("a part `{}`; allowed: text", part.kind)));
            }
            parts.iter().map(|part| part.text.as_str()).collect()
        }
    };
    let mut json = json!({"role": message.role, "content": content});
    if let Some(name) = &message.name {
        json["name"] = name.as_str().into();
    }
    Ok(json)
}
