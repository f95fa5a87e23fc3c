//! Which tokens begin and end a document: BOS_TOKEN and EOS_TOKEN, or those given in the base model's own files.

use std::path::Path;

use difflow_node_kit::Problem;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::config::Config;

/// Ids of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a document.
    pub bos: u32,
    /// Ends a document; it may be the same.
    pub eos: u32,
}

impl SpecialTokens {
    /// Those of a configuration, for its tokenizer. A model without a token that begins a document has that which ends one in its place.
    ///
    /// # Errors
    /// Every key that names no token, or has to name one because the model's files do not.
    pub fn find(config: &Config, tokenizer: &Tokenizer) -> Result<Self, Vec<Problem>> {
        let files = ["config.json", "tokenizer_config.json", "generation_config.json"].map(|name| read(config, name));
        let find = |key: &str, name: Option<&str>, what: &str| match name {
            Some(name) => tokenizer
                .token_to_id(name)
                .map(Some)
                .ok_or_else(|| Problem::new(key, name, format!("no such token; {}", known(tokenizer)))),
            None => Ok(files.iter().find_map(|file| file.as_ref().and_then(|file| token(file, what, tokenizer)))),
        };
        let bos = find("BOS_TOKEN", config.bos_token.as_deref(), "bos_token");
        let eos = find("EOS_TOKEN", config.eos_token.as_deref(), "eos_token");
        match (bos, eos) {
            (Ok(bos), Ok(Some(eos))) => Ok(Self { bos: bos.unwrap_or(eos), eos }),
            (bos, eos) => {
                let unknown = || {
                    let allowed = format!(
                        "config.json, tokenizer_config.json and generation_config.json of {} name no eos_token that the tokenizer has; \
                         name it: {}",
                        config.base_model,
                        known(tokenizer)
                    );
                    Problem::new("EOS_TOKEN", "no value", allowed)
                };
                Err(bos.err().into_iter().chain(eos.map_or_else(Some, |found| found.is_none().then(unknown))).collect())
            }
        }
    }
}

fn read(config: &Config, name: &str) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(Path::new(&config.base_model).join(name)).ok()?).ok()
}

/// What a file of the model says: `…_id`, a number or a list of which the first counts, or the token itself. Nothing that the
/// tokenizer does not have.
fn token(file: &Value, what: &str, tokenizer: &Tokenizer) -> Option<u32> {
    let id = file.get(format!("{what}_id")).and_then(|id| id.as_u64().or_else(|| id.get(0)?.as_u64()));
    let id = id.and_then(|id| u32::try_from(id).ok()).filter(|&id| tokenizer.id_to_token(id).is_some());
    let named = || {
        let token = file.get(what)?;
        tokenizer.token_to_id(token.as_str().or_else(|| token.get("content")?.as_str())?)
    };
    id.or_else(named)
}

/// The tokenizer's special tokens, for a message.
fn known(tokenizer: &Tokenizer) -> String {
    let added = tokenizer.get_added_tokens_decoder();
    let mut names: Vec<(&u32, &str)> = added.iter().map(|(id, token)| (id, token.content.as_str())).collect();
    names.sort_unstable();
    let names: Vec<&str> = names.into_iter().map(|(_, name)| name).collect();
    format!("the tokenizer's special tokens: {}", names.join(", "))
}
