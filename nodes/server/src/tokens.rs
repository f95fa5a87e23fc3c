//! `/tokenize`, `/detokenize` and `/tokenizer_info`: the tokenizer as vLLM's and llama.cpp's clients ask for it.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::{Detokenize, Tokenize};
use crate::model::Loaded;

/// Token ids of a text, in which what looks like a special token is one, as other servers have it. Errors if there is no text.
pub fn tokenize(model: &Loaded, fields: Tokenize) -> Result<Value, ApiError> {
    let own = fields.prompt.is_some();
    let text = fields.prompt.or(fields.content);
    let text = text.ok_or_else(|| ApiError::field("prompt", "`prompt` is missing: a text"))?;
    let words = model.session.words();
    let wrong = |e: difflow_text::TextError| ApiError::field("prompt", e.to_string());
    let special = fields.add_special_tokens.or(fields.add_special).unwrap_or(own);
    let mut tokens = if special { words.own_start().map_err(wrong)? } else { Vec::new() };
    // A tokenizer whose file calls no token special still has these two.
    match [words.bos, words.eos].into_iter().find(|&id| words.name(id).as_deref() == Some(&text)) {
        Some(id) => tokens.push(id),
        None => tokens.extend(model.special.prompt(&text, true).map_err(wrong)?),
    }
    Ok(json!({"count": tokens.len(), "max_model_len": model.longest, "tokens": tokens}))
}

/// The text of token ids. Errors if there are none, or one is none of the model's.
pub fn detokenize(model: &Loaded, fields: Detokenize) -> Result<Value, ApiError> {
    let tokens = fields.tokens.ok_or_else(|| ApiError::field("tokens", "`tokens` is missing: token ids"))?;
    let rows = model.session.config().vocab_size;
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= rows) {
        return Err(ApiError::field("tokens", format!("token id {id}; allowed: below {rows}")));
    }
    let text = model.session.words().decode(&tokens).map_err(|e| ApiError::field("tokens", e.to_string()))?;
    Ok(json!({"prompt": text, "content": text}))
}

/// What a client needs of the tokenizer.
pub fn info(model: &Loaded) -> Value {
    let words = model.session.words();
    json!({
        "tokenizer_class": "difflow", "bos_token": words.name(words.bos), "eos_token": words.name(words.eos),
        "bos_token_id": words.bos, "eos_token_id": words.eos, "pad_token": words.name(words.eos),
        "model_max_length": model.longest, "vocab_size": model.session.config().vocab_size
    })
}
